package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"
)

// Answer is what the server says to every request but for /ready.
type Answer struct {
	App  string `json:"app,omitempty"`  // $APP
	Pod  string `json:"pod"`            // the host name
	Node string `json:"node,omitempty"` // $NODE
	Host string `json:"host"`           // that was asked for
	Path string `json:"path"`
	From string `json:"from"` // address of who asked, as it is seen here
	// What a proxy says of the request.
	ForwardedFor   string `json:"forwardedFor,omitempty"`
	ForwardedProto string `json:"forwardedProto,omitempty"`
}

// serve answers until it is told to end, and then for as long as others may still be
// learning that it ends: a Service's endpoints change after its pod was told.
func serve(ctx context.Context, args []string, s streams) error {
	f := flags("serve", s.log)
	listen := f.String("listen", ":8080", "address to listen on")
	drain := f.Duration("drain", 5*time.Second, "how long to go on answering after SIGTERM")
	if err := f.Parse(args); err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", *listen)
	if err != nil {
		return err
	}
	fmt.Fprintln(s.log, "echo: listening on", listener.Addr())
	return serveOn(ctx, listener, *drain)
}

func serveOn(ctx context.Context, listener net.Listener, drain time.Duration) error {
	var ending atomic.Bool
	server := http.Server{Handler: handler(&ending), ReadHeaderTimeout: time.Minute}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	ending.Store(true)
	time.Sleep(drain)
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	err := server.Shutdown(last)
	if served := <-ended; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// handler answers; ?wait=DURATION makes an answer come late.
func handler(ending *atomic.Bool) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/ready", func(w http.ResponseWriter, _ *http.Request) {
		if ending.Load() {
			http.Error(w, "ending", http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if text := r.URL.Query().Get("wait"); text != "" {
			wait, err := time.ParseDuration(text)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			select {
			case <-time.After(wait):
			case <-r.Context().Done():
				return
			}
		}
		w.Header().Set("Content-Type", "application/json")
		_ = line(w, answer(r)) // who asked has gone
	})
	return mux
}

func answer(r *http.Request) Answer {
	from, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		from = r.RemoteAddr
	}
	pod, err := os.Hostname()
	if err != nil {
		pod = err.Error()
	}
	return Answer{
		App: os.Getenv("APP"), Pod: pod, Node: os.Getenv("NODE"), Host: r.Host, Path: r.URL.Path, From: from,
		ForwardedFor: r.Header.Get("X-Forwarded-For"), ForwardedProto: r.Header.Get("X-Forwarded-Proto"),
	}
}
