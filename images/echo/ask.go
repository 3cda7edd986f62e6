package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Got is what one URL gave.
type Got struct {
	URL    string  `json:"url"`
	Status int     `json:"status,omitempty"`
	Answer *Answer `json:"answer,omitempty"` // nil: it was not an answer of this program
	Error  string  `json:"error,omitempty"`
}

// get asks URLs, all at once, each over a connection of its own.
func get(ctx context.Context, args []string, s streams) error {
	f := flags("get", s.log)
	host := f.String("host", "", "host to ask for, instead of the URL's")
	timeout := f.Duration("timeout", 3*time.Second, "how long to wait for each")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() == 0 {
		return errors.New("get what? name a URL")
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: *timeout}
	answers := make([]Got, f.NArg())
	var all sync.WaitGroup
	for i, url := range f.Args() {
		all.Go(func() { answers[i] = ask(ctx, &client, url, *host) })
	}
	all.Wait()
	failed := false
	for _, got := range answers {
		failed = failed || got.Error != ""
		if err := line(s.out, got); err != nil {
			return err
		}
	}
	if failed {
		return errFailed
	}
	return nil
}

// ask asks once. An error is also a status of 400 and above.
func ask(ctx context.Context, client *http.Client, url, host string) Got {
	got := Got{URL: url}
	fail := func(err error) Got {
		got.Error = err.Error()
		return got
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return fail(err)
	}
	r.Host = host
	response, err := client.Do(r)
	if err != nil {
		return fail(err)
	}
	defer response.Body.Close()
	got.Status = response.StatusCode
	body, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	if err != nil {
		return fail(err)
	}
	var a Answer
	if json.Unmarshal(body, &a) == nil && a.Pod != "" {
		got.Answer = &a
	}
	if got.Status >= http.StatusBadRequest {
		return fail(fmt.Errorf("status %d", got.Status))
	}
	return got
}

// Resolved is what one name has.
type Resolved struct {
	Name      string   `json:"name"`
	Addresses []string `json:"addresses,omitempty"` // sorted
	Error     string   `json:"error,omitempty"`
}

// resolve looks names up as every program of the container does, by /etc/resolv.conf.
func resolve(ctx context.Context, args []string, s streams) error {
	f := flags("resolve", s.log)
	timeout := f.Duration("timeout", 5*time.Second, "how long to wait for each")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() == 0 {
		return errors.New("resolve what? name a name")
	}
	failed := false
	for _, name := range f.Args() {
		ctx, cancel := context.WithTimeout(ctx, *timeout)
		found, err := net.DefaultResolver.LookupHost(ctx, name)
		cancel()
		slices.Sort(found)
		r := Resolved{Name: name, Addresses: found}
		if err != nil {
			r.Error, failed = err.Error(), true
		}
		if err := line(s.out, r); err != nil {
			return err
		}
	}
	if failed {
		return errFailed
	}
	return nil
}
