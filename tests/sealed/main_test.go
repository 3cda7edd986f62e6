//go:build linux

package sealed_test

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/rancher/rke2/tests/sealed"
)

func TestMain(m *testing.M) {
	sealed.Main()
	if how := os.Getenv(holdVar); how != "" {
		holdHost(how)
		os.Exit(0)
	}
	if address := os.Getenv(answerVar); address != "" {
		answer(address)
	}
	os.Exit(sealed.Guard(m.Run))
}

// newHost makes a host that ends with the test.
func newHost(t *testing.T, opts sealed.Options) *sealed.Host {
	t.Helper()
	skipUnsupported(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	h, err := sealed.New(ctx, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

func skipUnsupported(t *testing.T) {
	t.Helper()
	if err := sealed.Supported(); errors.Is(err, sealed.ErrUnsupported) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
}

// run runs a shell script on the host and returns its output.
func run(t *testing.T, h *sealed.Host, script string) string {
	t.Helper()
	out, err := h.Command(t.Context(), "sh", "-ec", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return string(out)
}
