//go:build linux

package sealed_test

import (
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/rancher/rke2/tests/sealed"
)

func TestDial(t *testing.T) {
	h := newHost(t, sealed.Options{Name: "listener"})
	if _, err := h.Start(t.Context(), "serve", "perl", "-MIO::Socket::INET", "-e",
		`$s = IO::Socket::INET->new(Listen => 5, LocalPort => 8080, ReuseAddr => 1) or die; while ($c = $s->accept) { print $c "hello\n"; close $c }`); err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{"127.0.0.1:8080", h.Address() + ":8080"} {
		var got string
		err := sealed.Wait(t.Context(), "an answer from "+address, 10*time.Second, func(ctx context.Context) error {
			c, err := h.DialContext(ctx, "tcp", address)
			if err != nil {
				return err
			}
			defer c.Close()
			b, err := io.ReadAll(c)
			got = string(b)
			return err
		})
		if err != nil || got != "hello\n" {
			t.Errorf("%s says %q, %v", address, got, err)
		}
	}
	if _, err := h.DialContext(t.Context(), "tcp", "127.0.0.1:1"); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("closed port: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	if _, err := h.DialContext(ctx, "tcp", "203.0.113.1:80"); err == nil || time.Since(start) > 2*time.Second {
		t.Errorf("outside: %v after %s", err, time.Since(start))
	}
}
