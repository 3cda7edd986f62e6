package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// final marks an error that waiting does not mend.
type final struct{ error }

func (f final) Unwrap() error { return f.error }

// await returns when check gives nil, the first final error, or ctx's. What is waited for
// is said once, and again when the reason changes.
func await(ctx context.Context, out io.Writer, what string, check func() error) error {
	return awaitEvery(ctx, out, 200*time.Millisecond, what, check)
}

func awaitEvery(ctx context.Context, out io.Writer, every time.Duration, what string, check func() error) error {
	said := ""
	for {
		err := check()
		if err == nil {
			return nil
		}
		var f final
		if errors.As(err, &f) {
			return f.error
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if reason := err.Error(); reason != said {
			fmt.Fprintf(out, "waiting for %s: %s\n", what, reason)
			said = reason
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(every):
		}
	}
}
