//go:build linux

package sealed_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rancher/rke2/tests/sealed"
)

func TestCommand(t *testing.T) {
	h := newHost(t, sealed.Options{Name: "commands"})
	ctx := t.Context()

	t.Run("input, both outputs, environment, folder", func(t *testing.T) {
		var out, errs bytes.Buffer
		c := h.Command(ctx, "sh", "-c", `cat; echo "$WORD"; pwd; echo loud >&2`)
		c.Stdin, c.Stdout, c.Stderr = strings.NewReader("fed\n"), &out, &errs
		c.Env, c.Dir = []string{"WORD=said"}, "/tmp"
		if err := c.Run(); err != nil {
			t.Fatal(err)
		}
		if out.String() != "fed\nsaid\n/tmp\n" || errs.String() != "loud\n" {
			t.Errorf("stdout %q, stderr %q", out.String(), errs.String())
		}
	})
	t.Run("much output", func(t *testing.T) {
		out, err := h.Command(ctx, "head", "-c", "10000000", "/dev/zero").Output()
		if err != nil || len(out) != 10000000 {
			t.Errorf("%d bytes, %v", len(out), err)
		}
	})
	t.Run("failure tells status and stderr", func(t *testing.T) {
		_, err := h.Command(ctx, "sh", "-c", "echo because >&2; exit 3").Output()
		var failed *sealed.ExitError
		if !errors.As(err, &failed) || failed.Status.ExitStatus() != 3 || !strings.Contains(err.Error(), "because") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("no such program", func(t *testing.T) {
		for _, name := range []string{"no-such-program", "/no/such/program"} {
			if err := h.Command(ctx, name).Run(); err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("%s: error %v", name, err)
			}
		}
	})
	t.Run("signal", func(t *testing.T) {
		c := h.Command(ctx, "sleep", "1000")
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		if err := c.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		var failed *sealed.ExitError
		if err := c.Wait(); !errors.As(err, &failed) || failed.Status.Signal() != syscall.SIGTERM {
			t.Errorf("error %v", err)
		}
	})
	t.Run("context ends the whole group", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
		defer cancel()
		start := time.Now()
		err := h.Command(ctx, "sh", "-c", "trap '' TERM INT; sleep 1000 & sleep 1000; sleep 1000").Run()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("took %s", took)
		}
		if ps, err := h.Find("sleep"); err != nil || len(ps) > 0 {
			t.Errorf("still there: %v, %v", ps, err)
		}
	})
	t.Run("a child that keeps the pipe does not block", func(t *testing.T) {
		start := time.Now()
		out, err := h.Command(ctx, "sh", "-c", "setsid sleep 30 & echo done").Output()
		if err != nil || string(out) != "done\n" || time.Since(start) > 10*time.Second {
			t.Errorf("%q, %v after %s", out, err, time.Since(start))
		}
		run(t, h, "kill $(pidof sleep)")
	})
	t.Run("log", func(t *testing.T) {
		for range 2 {
			c, err := h.Start(ctx, "talk", "echo", "line")
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Wait(); err != nil {
				t.Fatal(err)
			}
		}
		if b, err := os.ReadFile(h.LogFile("talk")); err != nil || string(b) != "line\nline\n" {
			t.Errorf("log %q, %v", b, err)
		}
	})
	t.Run("host that is off", func(t *testing.T) {
		c := h.Command(ctx, "sleep", "1000")
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		if err := h.Close(); err != nil {
			t.Fatal(err)
		}
		if err := c.Wait(); err == nil || !strings.Contains(err.Error(), "ended while it ran") {
			t.Errorf("running command: %v", err)
		}
		if err := h.Command(ctx, "true").Run(); err == nil || !strings.Contains(err.Error(), "off") {
			t.Errorf("new command: %v", err)
		}
	})
}
