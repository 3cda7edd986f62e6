//go:build linux

package sealed_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/rancher/rke2/tests/sealed"
)

func TestOutsideIsOutOfReachAndRecorded(t *testing.T) {
	h := newHost(t, sealed.Options{Name: "talker"})
	// Itself, by every address, is inside.
	run(t, h, "ip route get 198.51.100.10 | grep -q 'dev lo'")
	if got, err := h.Outside(); err != nil || len(got) > 0 {
		t.Fatalf("a quiet host sent: %v, %v", got, err)
	}
	for _, script := range []string{
		"timeout 1 bash -c 'echo >/dev/tcp/203.0.113.9/443'",
		"timeout 1 bash -c 'echo >/dev/tcp/198.51.100.77/80'",
		"timeout 3 getent hosts registry-1.docker.io",
	} {
		if err := h.Command(t.Context(), "sh", "-c", script).Run(); err == nil {
			t.Errorf("%s: got through", script)
		}
	}
	want := []string{
		"tcp 203.0.113.9:443",
		"arp 198.51.100.77",
		"udp 198.51.100.1:53 asking for registry-1.docker.io.",
	}
	err := sealed.Wait(t.Context(), "the record of what was sent", 5*time.Second, func(context.Context) error {
		got, err := h.Outside()
		if err != nil {
			return err
		}
		for _, w := range want {
			if !slices.Contains(got, w) {
				return fmt.Errorf("no %q in %q", w, got)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
