package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// server serves until the test or stop ends it, with a drain of a second.
func server(t *testing.T) (address string, stop func() error) {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- serveOn(ctx, listener, time.Second) }()
	stopped := false
	stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		return <-ended
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	return listener.Addr().String(), stop
}

// echo runs a command and reads the lines that it prints.
func echo[T any](t *testing.T, args ...string) ([]T, error) {
	t.Helper()
	return echoFrom[T](t, strings.NewReader(""), args...)
}

func echoFrom[T any](t *testing.T, in io.Reader, args ...string) ([]T, error) {
	t.Helper()
	var out bytes.Buffer
	err := run(t.Context(), args, streams{in, &out, io.Discard})
	var all []T
	for d := json.NewDecoder(&out); ; {
		var one T
		if end := d.Decode(&one); errors.Is(end, io.EOF) {
			return all, err
		} else if end != nil {
			t.Fatal(end)
		}
		all = append(all, one)
	}
}

func TestAnswersSayWhoAndWhat(t *testing.T) {
	t.Setenv("NODE", "one")
	t.Setenv("APP", "shop")
	address, _ := server(t)
	got, err := echo[Got](t, "get", "-host", "shop.example", "http://"+address+"/a/b", "http://"+address+"/c")
	if err != nil || len(got) != 2 {
		t.Fatal(got, err)
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	want := Answer{App: "shop", Pod: host, Node: "one", Host: "shop.example", Path: "/a/b", From: "127.0.0.1"}
	if got[0].Answer == nil || *got[0].Answer != want || got[0].Status != http.StatusOK {
		t.Errorf("%+v, want %+v", got[0], want)
	}
	if got[1].Answer == nil || got[1].Answer.Path != "/c" {
		t.Errorf("%+v", got[1])
	}
}

func TestFailuresAreSaidAndFail(t *testing.T) {
	address, _ := server(t)
	closed, stop := server(t)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	got, err := echo[Got](t, "get", "-timeout", "100ms", "http://"+address+"/?wait=5s", "http://"+closed+"/", "http://"+address+"/?wait=x", "http://"+address+"/")
	if !errors.Is(err, errFailed) || len(got) != 4 {
		t.Fatal(got, err)
	}
	for i, words := range []string{"Client.Timeout", "refused", "status 400", ""} {
		if !strings.Contains(got[i].Error, words) || (words == "") != (got[i].Error == "") {
			t.Errorf("%s: %q, want %q", got[i].URL, got[i].Error, words)
		}
	}
	names, err := echo[Resolved](t, "resolve", "-timeout", "2s", "127.0.0.1", "no-such-name.invalid")
	if !errors.Is(err, errFailed) || len(names) != 2 || names[0].Addresses[0] != "127.0.0.1" || names[1].Error == "" {
		t.Error(names, err)
	}
	for _, args := range [][]string{nil, {"shout"}, {"get"}, {"resolve"}, {"load"}, {"load", "-for", "x"}} {
		if err := run(t.Context(), args, streams{strings.NewReader(""), io.Discard, io.Discard}); err == nil || errors.Is(err, errFailed) {
			t.Errorf("%q: %v", args, err)
		}
	}
}

// A server that is told to end answers until the end of its drain: nobody who asks in the
// meantime fails.
func TestLoadOverAnEndingServer(t *testing.T) {
	address, stop := server(t)
	ended := make(chan error, 1)
	go func() {
		time.Sleep(200 * time.Millisecond)
		ended <- stop()
	}()
	total, err := echo[Load](t, "load", "-for", "600ms", "-workers", "3", "http://"+address+"/")
	if err != nil || len(total) != 1 || total[0].Requests < 20 || total[0].Failed != 0 {
		t.Errorf("%+v, %v", total, err)
	}
	host, _ := os.Hostname()
	if total[0].By[host] != total[0].Requests {
		t.Errorf("answers by pod: %v", total[0].By)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	total, err = echo[Load](t, "load", "-for", "100ms", "-workers", "2", "http://"+address+"/")
	if !errors.Is(err, errFailed) || len(total) != 1 || total[0].Failed != total[0].Requests || len(total[0].Errors) == 0 || len(total[0].Errors) > maxErrors {
		t.Errorf("%+v, %v", total, err)
	}
}

func TestLoadEndsWithItsInput(t *testing.T) {
	address, _ := server(t)
	r, w := io.Pipe()
	started := time.Now()
	go func() {
		time.Sleep(300 * time.Millisecond)
		_ = w.Close()
	}()
	total, err := echoFrom[Load](t, r, "load", "-for", "1m", "-until-eof", "http://"+address+"/")
	if took := time.Since(started); err != nil || total[0].Requests == 0 || took < 300*time.Millisecond || took > 20*time.Second {
		t.Errorf("%+v, %v, after %s", total, err, took)
	}
}
