package main

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"sync"
	"time"
)

// retry is waited after a failure, and before anything succeeded: on a node that starts,
// the way to the API server comes up a moment later.
const retry = 2 * time.Second

// scaler keeps one Deployment at the size that its rule says.
type scaler struct {
	api *apiServer
	opt options
	log *log.Logger

	mu        sync.Mutex
	tried, ok time.Time // when it last tried, and when that last succeeded
	failure   string    // of the last try
}

// loop returns when the context ends.
func (s *scaler) loop(ctx context.Context) {
	s.note(nil, true)
	for {
		err := s.once(ctx)
		if ctx.Err() != nil {
			return
		}
		s.note(err, false)
		pause := s.opt.period
		if err != nil && pause > retry {
			pause = retry
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// once looks, and scales where that is needed.
func (s *scaler) once(ctx context.Context) error {
	all, ready, err := s.api.sizes(ctx)
	if err != nil {
		return fmt.Errorf("counting nodes: %w", err)
	}
	if all.nodes == 0 {
		return fmt.Errorf("counting nodes: the API server knows of none")
	}
	have, err := s.api.scale(ctx, s.opt.namespace, s.opt.deployment)
	if err != nil {
		return fmt.Errorf("reading the scale of deployment %s/%s: %w", s.opt.namespace, s.opt.deployment, err)
	}
	// A server for a node that takes no pods yet would be put beside another one, and one
	// too few while a node is away may leave none: only Ready nodes ask for more, and only
	// those that were removed for fewer.
	want := min(max(have, s.opt.rule.replicas(ready)), s.opt.rule.replicas(all))
	if have == want {
		return nil
	}
	if err := s.api.setScale(ctx, s.opt.namespace, s.opt.deployment, want); err != nil {
		return fmt.Errorf("scaling deployment %s/%s from %d to %d: %w", s.opt.namespace, s.opt.deployment, have, want, err)
	}
	s.log.Printf("scaled deployment %s/%s from %d to %d: %d nodes, %g cores; Ready %d, %g", s.opt.namespace, s.opt.deployment,
		have, want, all.nodes, all.cores, ready.nodes, ready.cores)
	return nil
}

// note remembers how a try went; a failure is told once, until it is another or over.
func (s *scaler) note(err error, start bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tried = time.Now()
	switch {
	case start:
		s.failure = "nothing was looked at yet"
	case err != nil:
		if s.failure != err.Error() {
			s.log.Print(err)
		}
		s.failure = err.Error()
	default:
		if s.ok.IsZero() || s.failure != "" {
			s.log.Printf("looking at the cluster's size every %s", s.opt.period)
		}
		s.ok, s.failure = s.tried, ""
	}
}

// health answers /ready (its last try succeeded) and /live (it tries).
func (s *scaler) health() http.Handler {
	answer := func(w http.ResponseWriter, failure string) {
		if failure != "" {
			http.Error(w, failure, http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		answer(w, s.failure)
	})
	mux.HandleFunc("GET /live", func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if silent := time.Since(s.tried); silent > s.opt.period+3*requestTime+time.Minute {
			answer(w, fmt.Sprintf("nothing was tried for %s", silent.Round(time.Second)))
			return
		}
		answer(w, "")
	})
	return mux
}
