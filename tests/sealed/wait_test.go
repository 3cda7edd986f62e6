package sealed

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestWait(t *testing.T) {
	notYet := errors.New("not yet")
	tries := 0
	if err := Wait(t.Context(), "the third try", time.Minute, func(context.Context) error {
		if tries++; tries < 3 {
			return notYet
		}
		return nil
	}); err != nil || tries != 3 {
		t.Errorf("%v after %d tries", err, tries)
	}
	// The limit names what was waited for and the last real reason.
	err := Wait(t.Context(), "a miracle", 250*time.Millisecond, func(ctx context.Context) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return notYet
	})
	if !errors.Is(err, notYet) || !strings.Contains(err.Error(), "a miracle") {
		t.Errorf("after the limit: %v", err)
	}
	start := time.Now()
	err = Wait(t.Context(), "the dead", time.Minute, func(context.Context) error { return Hopeless(notYet) })
	if !errors.Is(err, notYet) || time.Since(start) > time.Second {
		t.Errorf("hopeless: %v after %s", err, time.Since(start))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Wait(ctx, "nothing", time.Minute, func(context.Context) error { return notYet }); err == nil {
		t.Error("waited although the context was done")
	}
}
