package serve

import (
	"context"
	"testing"
)

// contextOf ends when stop is called; t.Context ends before cleanups.
func contextOf(t testing.TB) (context.Context, context.CancelFunc) {
	t.Helper()
	return context.WithCancel(context.WithoutCancel(t.Context()))
}
