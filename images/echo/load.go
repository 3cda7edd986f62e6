package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
)

// Load is what came of many requests.
type Load struct {
	Requests int            `json:"requests"`
	Failed   int            `json:"failed"`
	By       map[string]int `json:"by"`               // answers by pod; "" for another program's
	Errors   []string       `json:"errors,omitempty"` // the first few
	Slowest  float64        `json:"slowestSeconds"`
}

// maxErrors is how many errors are worth reading.
const maxErrors = 5

// load asks one URL over and over, over connections that are kept, as browsers do.
func load(ctx context.Context, args []string, s streams) error {
	f := flags("load", s.log)
	host := f.String("host", "", "host to ask for, instead of the URL's")
	timeout := f.Duration("timeout", 5*time.Second, "how long to wait for each answer")
	long := f.Duration("for", 10*time.Second, "how long to go on at most")
	until := f.Bool("until-eof", false, "end when standard input does")
	workers := f.Int("workers", 4, "how many ask at the same time")
	pause := f.Duration("pause", 20*time.Millisecond, "how long each rests after an answer")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() != 1 {
		return errors.New("load takes one URL")
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: *workers}, Timeout: *timeout}
	total := Load{By: map[string]int{}}
	going, end := context.WithTimeout(ctx, *long)
	defer end()
	if *until {
		go func() {
			_, _ = io.Copy(io.Discard, s.in)
			end()
		}()
	}
	var mu sync.Mutex
	var all sync.WaitGroup
	for range *workers {
		all.Go(func() {
			for going.Err() == nil { // what was asked by then is waited for
				started := time.Now()
				got := ask(ctx, client, f.Arg(0), *host)
				took := time.Since(started)
				mu.Lock()
				total.add(got, took)
				mu.Unlock()
				time.Sleep(*pause)
			}
		})
	}
	all.Wait()
	if err := line(s.out, total); err != nil {
		return err
	}
	if total.Failed > 0 || total.Requests == 0 {
		return errFailed
	}
	return nil
}

func (l *Load) add(got Got, took time.Duration) {
	l.Requests++
	l.Slowest = max(l.Slowest, took.Seconds())
	if got.Error != "" {
		l.Failed++
		if len(l.Errors) < maxErrors {
			l.Errors = append(l.Errors, got.Error)
		}
		return
	}
	pod := ""
	if got.Answer != nil {
		pod = got.Answer.Pod
	}
	l.By[pod]++
}
