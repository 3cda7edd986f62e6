//go:build linux

package sealed_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rancher/rke2/tests/sealed"
)

// answerVar makes this test binary a server inside a host: it tells everyone who
// connects to the address in it which host this is and who asks.
const answerVar = "RKE2_SEALED_TEST_ANSWER"

func answer(address string) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	name, _ := os.Hostname()
	for {
		c, err := l.Accept()
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		from, _, _ := net.SplitHostPort(c.RemoteAddr().String())
		fmt.Fprintf(c, "%s to %s", name, from)
		_ = c.Close()
	}
}

const answerPort = "7000"

// newSwitch makes a switch that ends with the test.
func newSwitch(t *testing.T) *sealed.Switch {
	t.Helper()
	skipUnsupported(t)
	s, err := sealed.NewSwitch(context.WithoutCancel(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// joinedHost makes a host on a switch, with this program in it as "answer".
func joinedHost(t *testing.T, s *sealed.Switch, name, address string) *sealed.Host {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	h := newHost(t, sealed.Options{
		Name: name, Switch: s, Address: address + "/24",
		Binds: []sealed.Bind{{Source: self, Target: "/usr/local/bin/answer"}},
	})
	serve(t, h)
	return h
}

func serve(t *testing.T, h *sealed.Host) {
	t.Helper()
	c := h.Command(context.WithoutCancel(t.Context()), "answer")
	c.Env = []string{answerVar + "=:" + answerPort}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
}

// ask connects from one host to another's address.
func ask(ctx context.Context, from *sealed.Host, address string) (string, error) {
	c, err := from.DialContext(ctx, "tcp", net.JoinHostPort(address, answerPort))
	if err != nil {
		return "", err
	}
	defer c.Close()
	b, err := io.ReadAll(c)
	return string(b), err
}

// answers waits for an answer of address: its server or its link may be coming up.
func answers(t *testing.T, from *sealed.Host, address, want string) {
	t.Helper()
	if err := sealed.Wait(t.Context(), "an answer of "+address, 10*time.Second, func(ctx context.Context) error {
		got, err := ask(ctx, from, address)
		if err == nil && got != want {
			err = fmt.Errorf("%q, want %q", got, want)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
}

// silent checks that nothing comes from address for a while.
func silent(t *testing.T, from *sealed.Host, address string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if got, err := ask(ctx, from, address); err == nil {
		t.Errorf("%s answers %q", address, got)
	}
}

func TestSwitchJoinsHosts(t *testing.T) {
	before, err := sealed.Count()
	if err != nil {
		t.Fatal(err)
	}
	s := newSwitch(t)
	const one, two, three = "198.51.100.11", "198.51.100.12", "198.51.100.13"
	a, b, c := joinedHost(t, s, "one", one), joinedHost(t, s, "two", two), joinedHost(t, s, "three", three)
	answers(t, a, two, "two to "+one)
	answers(t, b, three, "three to "+two)
	answers(t, c, one, "one to "+three)

	t.Run("nothing of it shows outside", func(t *testing.T) {
		now, err := sealed.Count()
		if err != nil {
			t.Fatal(err)
		}
		for _, item := range now.Since(before) {
			if strings.HasPrefix(item, "network ") || strings.HasPrefix(item, "mount ") {
				t.Error(item)
			}
		}
	})
	t.Run("unplugged, plugged", func(t *testing.T) {
		if err := b.Unplug(); err != nil {
			t.Fatal(err)
		}
		silent(t, a, two)
		silent(t, b, one)
		answers(t, a, three, "three to "+one)
		answers(t, b, two, "two to "+two) // itself it has
		if err := b.Plug(); err != nil {
			t.Fatal(err)
		}
		answers(t, a, two, "two to "+one)
		answers(t, b, one, "one to "+two)
	})
	t.Run("rebooted, with and without its link", func(t *testing.T) {
		if err := b.Reboot(t.Context()); err != nil {
			t.Fatal(err)
		}
		serve(t, b)
		// From outside first: its neighbours must not need a word from it.
		answers(t, a, two, "two to "+one)
		if err := b.Unplug(); err != nil {
			t.Fatal(err)
		}
		if err := b.Reboot(t.Context()); err != nil {
			t.Fatal(err)
		}
		serve(t, b)
		answers(t, b, two, "two to "+two)
		silent(t, b, one)
		if err := b.Plug(); err != nil {
			t.Fatal(err)
		}
		answers(t, b, one, "one to "+two)
	})
	t.Run("what leaves is recorded, and where it came from", func(t *testing.T) {
		for _, h := range []*sealed.Host{a, b, c} {
			if got, err := h.Outside(); err != nil || len(got) > 0 {
				t.Errorf("%s talked to the others only: %v, %v", h.Name(), got, err)
			}
		}
		for _, script := range []string{
			"timeout 1 bash -c 'echo >/dev/tcp/203.0.113.9/443'",
			"timeout 1 bash -c 'echo >/dev/tcp/198.51.100.77/80'",
			"timeout 3 getent hosts registry-1.docker.io",
		} {
			if err := a.Command(t.Context(), "sh", "-c", script).Run(); err == nil {
				t.Errorf("%s: got through", script)
			}
		}
		want := []string{"arp 198.51.100.77", "tcp 203.0.113.9:443", "udp 198.51.100.1:53 asking for registry-1.docker.io."}
		if err := sealed.Wait(t.Context(), "the record of what was sent", 5*time.Second, func(context.Context) error {
			got, err := a.Outside()
			slices.Sort(got)
			if err == nil && !slices.Equal(got, want) {
				err = fmt.Errorf("%q, want %q", got, want)
			}
			return err
		}); err != nil {
			t.Error(err)
		}
		for _, h := range []*sealed.Host{b, c} {
			if got, err := h.Outside(); err != nil || len(got) > 0 {
				t.Errorf("%s is blamed for another's: %v, %v", h.Name(), got, err)
			}
		}
	})
	t.Run("nothing is left", func(t *testing.T) {
		space := networkOf(t, parentOf(t, a.Init()))
		if users(t, space) == 0 {
			t.Fatal("nobody is found in the switch's namespace while its hosts run")
		}
		for _, h := range []*sealed.Host{a, b, c} {
			if err := h.Close(); err != nil {
				t.Error(err)
			}
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := sealed.Wait(t.Context(), "the switch's namespace to be let go of", 10*time.Second, func(context.Context) error {
			if n := users(t, space); n > 0 {
				return fmt.Errorf("%d threads or files hold it", n)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
		noLeaks(t, before)
	})
}

func TestUnplugWithoutSwitch(t *testing.T) {
	h := newHost(t, sealed.Options{Name: "lonely"})
	if err := h.Unplug(); err == nil || !strings.Contains(err.Error(), "on no switch") {
		t.Errorf("unplugging a host without a switch: %v", err)
	}
}

func TestHostOnClosedSwitch(t *testing.T) {
	s := newSwitch(t)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	before, err := sealed.Count()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sealed.New(t.Context(), sealed.Options{Name: "late", Switch: s}); err == nil || !strings.Contains(err.Error(), "the switch is closed") {
		t.Errorf("a host on a closed switch: %v", err)
	}
	noLeaks(t, before)
}

// networkOf names the network namespace of a process.
func networkOf(t *testing.T, pid int) string {
	t.Helper()
	space, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		t.Fatal(err)
	}
	return space
}

// users counts threads in a network namespace, and open files of it.
func users(t *testing.T, space string) int {
	t.Helper()
	count := 0
	for _, pattern := range []string{"/proc/[0-9]*/task/*/ns/net", "/proc/[0-9]*/fd/*"} {
		links, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range links {
			if to, err := os.Readlink(l); err == nil && to == space {
				count++
			}
		}
	}
	return count
}
