package engine

import (
	"context"
	"log/slog"
	"time"
)

// wait returns when c is closed, or with the error of ctx.
func wait(ctx context.Context, c <-chan struct{}) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-c:
		return nil
	}
}

// retry tries something that other parts of the cluster must be up for until it succeeds,
// with pauses; its only error is that of ctx. Why it does not succeed yet is logged once,
// and again when the reason is another.
func retry(ctx context.Context, log *slog.Logger, pause time.Duration, try func(context.Context) error, message string, attributes ...any) error {
	var said string
	for {
		err := try(ctx)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case err.Error() != said:
			said = err.Error()
			log.With(attributes...).Info(message, "reason", said)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}
