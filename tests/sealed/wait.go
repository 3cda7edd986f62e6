package sealed

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Wait tries until try returns nil, at most for limit. It fails with what was
// waited for, how long, and try's last error; at once when try's error is one
// that [Hopeless] made.
func Wait(ctx context.Context, what string, limit time.Duration, try func(context.Context) error) error {
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var last error
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil {
			last = err // else it is about the limit, not about what was tried
		}
		var h hopeless
		if errors.As(err, &h) {
			return fmt.Errorf("waiting for %s: given up after %s: %w", what, time.Since(start).Round(time.Millisecond), h.error)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: not after %s: %w", what, time.Since(start).Round(time.Millisecond), last)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

type hopeless struct{ error }

func (h hopeless) Unwrap() error { return h.error }

// Hopeless marks an error that more waiting will not mend: the process that
// should do it has ended.
func Hopeless(err error) error { return hopeless{err} }
