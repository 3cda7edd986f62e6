package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The test binary is the programs that install-cni runs, when its first argument is one
// of these.
func TestMain(m *testing.M) {
	if len(os.Args) < 3 {
		os.Exit(m.Run())
	}
	switch file := os.Args[2]; os.Args[1] {
	case "act-third-time": // fails until it ran three times
		have, _ := os.ReadFile(file)
		check(os.WriteFile(file, append(have, 'x'), 0o600))
		if len(have) < 2 {
			os.Exit(1)
		}
	case "act-write-and-stay":
		check(os.WriteFile(file, []byte("new"), 0o600))
		got := make(chan os.Signal, 1)
		signal.Notify(got, syscall.SIGTERM)
		<-got
		check(os.WriteFile(file, []byte("ended"), 0o600))
	case "act-fail":
		os.Exit(5)
	default:
		os.Exit(m.Run())
	}
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

// said is written to by install-cni and what it runs, and read by the test.
type said struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

func eventually(t *testing.T, what string, out *said, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !so(); {
		if time.Now().After(deadline) {
			t.Fatalf("%s: it was not so after 20 s; said:\n%s", what, out)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

const template = `{"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "p", "mtu": ${MTU}, "node": "${TEST_NODE}"}]}`

// host is where one test installs to.
type host struct {
	from, to string
	conf     string // the file that is written
	template string
	vars     string
	self     string
	out      *said
}

func newHost(t *testing.T) host {
	t.Helper()
	from, to := folders(t)
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	h := host{
		from: from, to: to, self: self, out: &said{},
		conf: filepath.Join(t.TempDir(), "10-n.conflist"), template: filepath.Join(dir, "template"), vars: filepath.Join(dir, "vars"),
	}
	check(os.WriteFile(h.template, []byte(template), 0o600))
	t.Setenv("TEST_NODE", "node1")
	return h
}

func (h host) start(t *testing.T, connect func() (api, error), args ...string) (stop func(), ended <-chan error) {
	t.Helper()
	all := append([]string{"-from", h.from, "-to", h.to, "-conf", h.conf, "-template", h.template}, args...)
	o, err := parse(all, h.out)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	c := make(chan error, 1)
	go func() { c <- o.run(ctx, h.out, connect) }()
	return cancel, c
}

func (h host) wantEnd(t *testing.T, ended <-chan error, text string) {
	t.Helper()
	select {
	case err := <-ended:
		if (err == nil) != (text == "") || err != nil && !strings.Contains(err.Error(), text) {
			t.Errorf("it ended with %v, want %q; said:\n%s", err, text, h.out)
		}
	case <-time.After(20 * time.Second):
		t.Fatalf("it did not end; said:\n%s", h.out)
	}
}

func noAPI() (api, error) { return api{}, errors.New("no API server here") }

func TestConfigurationComesWhenTheNetworkWorks(t *testing.T) {
	h := newHost(t)
	stop, ended := h.start(t, noAPI, "-variables", h.vars, "bridge")
	eventually(t, "it waits", h.out, func() bool { return strings.Contains(h.out.String(), h.vars+" is not there") })
	want(t, h.to, "bridge", "bridge 2")
	if exists(filepath.Join(h.to, "portmap")) {
		t.Error("a plugin was installed that was not asked for")
	}
	if exists(h.conf) {
		t.Fatal("the configuration was written before the network worked")
	}
	check(os.WriteFile(h.vars, []byte("NET=10.42.0.0/16\nMTU=1450\n"), 0o600))
	eventually(t, "it writes", h.out, func() bool { return exists(h.conf) })
	text, err := os.ReadFile(h.conf)
	if wanted := `{"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "p", "mtu": 1450, "node": "node1"}]}`; err != nil || string(text) != wanted {
		t.Errorf("it wrote %s (%v), want %s", text, err, wanted)
	}
	if st, err := os.Stat(h.conf); err != nil || st.Mode() != 0o644 {
		t.Errorf("the configuration's mode: %v, %v", st.Mode(), err)
	}
	select {
	case err := <-ended:
		t.Fatalf("it did not stay: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	stop()
	h.wantEnd(t, ended, "")
}

func TestWhatTheClusterMustHaveFirst(t *testing.T) {
	h := newHost(t)
	t.Setenv("MTU", "1400")
	var mu sync.Mutex
	status, crds, made := http.StatusServiceUnavailable, `{}`, http.StatusNotFound
	set := func(f func()) { mu.Lock(); defer mu.Unlock(); f() }
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if r.Header.Get("Authorization") != "Bearer secret" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		switch r.URL.Path {
		case "/apis/g.example/v1":
			w.WriteHeader(status)
			fmt.Fprint(w, crds)
		case "/apis/g.example/v1/infos/default":
			w.WriteHeader(made)
		default:
			w.WriteHeader(http.StatusTeapot)
		}
	}))
	defer server.Close()
	token, runs, kubeconfig := filepath.Join(t.TempDir(), "token"), filepath.Join(t.TempDir(), "runs"), filepath.Join(t.TempDir(), "kubeconfig")
	check(os.WriteFile(token, []byte("secret\n"), 0o600))
	check(os.WriteFile(kubeconfig, []byte("old"), 0o600))
	hour := time.Now().Add(-time.Hour)
	check(os.Chtimes(kubeconfig, hour, hour))
	connect := func() (api, error) {
		return api{server: server.URL, token: token, client: server.Client()}, nil
	}
	stop, ended := h.start(t, connect,
		"-api-resources", "g.example/v1:infos,pools", "-once", h.self+" act-third-time "+runs,
		"-once-makes", "/apis/g.example/v1/infos/default", "-after-new", kubeconfig,
		"--", h.self, "act-write-and-stay", kubeconfig)
	heard := func(text string) {
		t.Helper()
		eventually(t, text, h.out, func() bool { return strings.Contains(h.out.String(), text) })
	}
	heard("503 Service Unavailable")
	set(func() { status, crds = http.StatusOK, `{"resources":[{"name":"infos"}]}` })
	heard("g.example/v1 has no pools yet")
	if exists(runs) {
		t.Error("the program of -once ran before the API had what it needs")
	}
	set(func() { crds = `{"resources":[{"name":"infos"},{"name":"pools"}]}` })
	heard("exit status 1")
	heard("/apis/g.example/v1/infos/default answers 404 Not Found")
	if text, _ := os.ReadFile(kubeconfig); string(text) != "old" {
		t.Error("PROGRAM was started before -once had made what it is for")
	}
	if exists(h.conf) {
		t.Fatal("the configuration was written too early")
	}
	set(func() { made = http.StatusOK })
	eventually(t, "it writes", h.out, func() bool { return exists(h.conf) })
	if text, _ := os.ReadFile(kubeconfig); string(text) != "new" {
		t.Errorf("the configuration was written before PROGRAM had written %s", kubeconfig)
	}
	stop()
	h.wantEnd(t, ended, "")
	if text, _ := os.ReadFile(kubeconfig); string(text) != "ended" {
		t.Error("PROGRAM was not ended")
	}
}

func TestEndsWithWhatFails(t *testing.T) {
	h := newHost(t)
	t.Setenv("MTU", "1400")
	_, ended := h.start(t, noAPI, "--", h.self, "act-fail", "x")
	h.wantEnd(t, ended, "exit status 5")

	_, ended = h.start(t, noAPI, "-after-new", filepath.Join(h.to, "never"), "--", h.self, "act-fail", "x")
	h.wantEnd(t, ended, "exit status 5")

	_, ended = h.start(t, noAPI, "-api-resources", "g/v1:a")
	h.wantEnd(t, ended, "no API server here")

	_, ended = h.start(t, noAPI, "-variables", h.vars, "none")
	h.wantEnd(t, ended, `there is no plugin "none"`)

	for text, why := range map[string]string{
		`{"cniVersion": "1.0.0", "name": "n"}`:                      "it needs cniVersion, name and plugins",
		`{"cniVersion": "1.0.0", "name": "n", "plugins": [{}]}`:     "a plugin has no type",
		`{"cniVersion": "1.0.0", "name": "n", "plugins": [}`:        "invalid character",
		`{"cniVersion": "1.0.0", "name": "n", "plugins": [${MTU}]}`: "is not a CNI configuration",
	} {
		check(os.WriteFile(h.template, []byte(text), 0o600))
		_, ended = h.start(t, noAPI)
		h.wantEnd(t, ended, why)
	}
	if left, _ := os.ReadDir(filepath.Dir(h.conf)); len(left) != 0 && !(len(left) == 1 && exists(h.conf)) {
		t.Errorf("left behind: %v", left)
	}
}

func TestVariablesChange(t *testing.T) {
	h := newHost(t)
	c := configuration{file: h.conf, template: h.template, variables: h.vars}
	render := func(variables string) []byte {
		t.Helper()
		check(os.WriteFile(h.vars, []byte(variables), 0o600))
		text, err := c.render()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	check(c.write(h.out, render("MTU=1450")))
	check(c.write(h.out, render("MTU=1450")))
	if !strings.Contains(h.out.String(), "is up to date") {
		t.Errorf("the same was written again:\n%s", h.out)
	}
	if text := render("MTU=8950"); !strings.Contains(string(text), `"mtu": 8950`) {
		t.Errorf("%s", text)
	}
	check(os.WriteFile(h.vars, nil, 0o600))
	if _, err := c.render(); err == nil || !strings.Contains(err.Error(), "says MTU") {
		t.Errorf("a variable that nothing says: %v", err)
	}
}

func TestCommandLine(t *testing.T) {
	for _, c := range []struct {
		args string
		ok   bool
	}{
		{"", true},
		{"bridge portmap", true},
		{"-conf a -template b bridge -- program -x", true},
		{"-conf a -template b -after-new c -- program", true},
		{"-conf a", false},
		{"-template b", false},
		{"-once program", false},
		{"-- program", false},
		{"-conf a -template b -after-new c", false},
		{"-conf a -template b -once-makes /c", false},
		{"-none", false},
	} {
		o, err := parse(strings.Fields(c.args), &said{})
		if (err == nil) != c.ok {
			t.Errorf("%q: %v", c.args, err)
		}
		if err == nil && strings.Contains(c.args, "-x") && (strings.Join(o.program, " ") != "program -x" || strings.Join(o.plugins, " ") != "bridge") {
			t.Errorf("%q: program %q, plugins %q", c.args, o.program, o.plugins)
		}
	}
	var out said
	if _, err := parse([]string{"-version"}, &out); !errors.Is(err, flag.ErrHelp) || !strings.HasPrefix(out.String(), "install-cni ") {
		t.Errorf("-version: %v, %q", err, out.String())
	}
}
