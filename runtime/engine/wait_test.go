package engine

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestRetrySaysEachReasonOnce(t *testing.T) {
	var log strings.Builder
	logger := slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
	reasons := []error{errors.New("refused"), errors.New("refused"), errors.New("no leader"), errors.New("refused"), nil}
	try := func(context.Context) error {
		err := reasons[0]
		reasons = reasons[1:]
		return err
	}
	if err := retry(t.Context(), logger, time.Millisecond, try, "waiting", "pod", "etcd"); err != nil || len(reasons) != 0 {
		t.Errorf("retry() = %v with %d attempts left", err, len(reasons))
	}
	want := "level=INFO msg=waiting pod=etcd reason=refused\n" +
		"level=INFO msg=waiting pod=etcd reason=\"no leader\"\n" +
		"level=INFO msg=waiting pod=etcd reason=refused\n"
	if log.String() != want {
		t.Errorf("the log is\n%s\nwant\n%s", log.String(), want)
	}
}

func TestRetryEndsWithItsContext(t *testing.T) {
	for name, pause := range map[string]time.Duration{"in a pause": time.Hour, "in an attempt": 0} {
		t.Run(name, func(t *testing.T) {
			var log strings.Builder
			ctx, cancel := context.WithCancel(t.Context())
			attempts := 0
			err := retry(ctx, slog.New(slog.NewTextHandler(&log, nil)), pause, func(ctx context.Context) error {
				attempts++
				if pause > 0 {
					time.AfterFunc(10*time.Millisecond, cancel)
					return errors.New("not yet")
				}
				cancel()
				return ctx.Err()
			}, "waiting")
			if !errors.Is(err, context.Canceled) || attempts != 1 {
				t.Errorf("retry() = %v after %d attempts", err, attempts)
			}
			if said := strings.Contains(log.String(), "context canceled"); said {
				t.Errorf("the end is logged as a reason: %s", log.String())
			}
		})
	}
}

func TestWait(t *testing.T) {
	ready := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	if err := wait(ctx, ready); !errors.Is(err, context.Canceled) {
		t.Errorf("wait() = %v, want %v", err, context.Canceled)
	}
	close(ready)
	if err := wait(t.Context(), ready); err != nil {
		t.Errorf("wait() = %v", err)
	}
}
