package main

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestVersion(t *testing.T) {
	for _, arg := range []string{"version", "--version"} {
		var out bytes.Buffer
		if code := run(context.Background(), []string{arg}, getenv(nil), files{}, &out); code != 0 {
			t.Errorf("exit %d", code)
		}
		if !regexp.MustCompile(`^klipper-helm \S+ \(helm v3\.\d+\.\d+, go1\.\S+\)\n$`).MatchString(out.String()) {
			t.Errorf("%s: %q", arg, out.String())
		}
	}
}

// Without a cluster: what the exit code is, and that the last words are there.
func TestExitCodes(t *testing.T) {
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	content := string(encode(t, packed(t, webChart())))
	for _, c := range []struct {
		name  string
		args  []string
		set   [2]string
		chart string
		code  int
		want  string
	}{
		{"helm v2", []string{"install"}, [2]string{"HELM_VERSION", "v2"}, content, 64, "only Helm v3"},
		{"no chart", []string{"install"}, [2]string{"CHART", ""}, "", 64, "no chart"},
		{"no cluster", []string{"install"}, [2]string{}, content, 1, "release web: failed: finding the Kubernetes API"},
		{"chart is not base64", []string{"install"}, [2]string{}, "H4sI!", 1, "spec.chartContent of HelmChart web"},
		{"delete without cluster", []string{"delete"}, [2]string{}, "", 1, "release web: failed: finding the Kubernetes API"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			f := files{config: filepath.Join(dir, "config"), chart: filepath.Join(dir, "chart"), termination: filepath.Join(dir, "termination-log")}
			write(t, dir, map[string]string{"termination-log": ""})
			if c.chart != "" {
				write(t, dir, map[string]string{"chart/web.tgz.base64": c.chart})
			}
			env := controllerEnv()
			if c.set[0] != "" {
				env[c.set[0]] = c.set[1]
			}
			var out bytes.Buffer
			if code := run(context.Background(), c.args, getenv(env), f, &out); code != c.code {
				t.Errorf("exit %d, want %d", code, c.code)
			}
			words, err := os.ReadFile(f.termination)
			if err != nil || !strings.Contains(string(words), c.want) || !strings.HasSuffix(out.String(), string(words)+"\n") {
				t.Errorf("%v, last words %q, want %q; log:\n%s", err, words, c.want, &out)
			}
		})
	}
}

// What does not heed a signal is left where it is.
func TestUntilDone(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	if err := untilDone(ctx, func() error { return errors.New("as it says") }); err == nil || err.Error() != "as it says" {
		t.Error(err)
	}
	stubborn := make(chan struct{})
	defer close(stubborn)
	cancel()
	ended := make(chan error, 1)
	go func() {
		ended <- untilDone(ctx, func() error { <-stubborn; return nil })
	}()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("it is said to be done")
		}
	case <-time.After(10 * lastMoments):
		t.Error("it goes on")
	}
	if err := untilDone(ctx, func() error { return ctx.Err() }); !errors.Is(err, context.Canceled) {
		t.Errorf("what heeds it may say so: %v", err)
	}
}

// A registry that answers nothing does not keep a job from ending when it is told to.
func TestEndsAtOnce(t *testing.T) {
	asked, end := make(chan struct{}), make(chan struct{})
	var once sync.Once
	registry := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		once.Do(func() { close(asked) })
		<-end
	}))
	defer registry.Close()
	defer close(end)
	env := controllerEnv()
	env["CHART"], env["REPO"], env["PLAIN_HTTP"] = "oci://"+strings.TrimPrefix(registry.URL, "http://")+"/charts/web", "", "true"
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out bytes.Buffer
	code := make(chan int, 1)
	go func() { code <- run(ctx, []string{"install"}, getenv(env), files{}, &out) }()
	select {
	case <-asked:
	case c := <-code:
		t.Fatalf("exit %d without a question; log:\n%s", c, &out)
	}
	cancel()
	select {
	case c := <-code:
		if c != exitFailed || !strings.Contains(out.String(), context.Canceled.Error()) {
			t.Errorf("exit %d; log:\n%s", c, &out)
		}
	case <-time.After(10 * lastMoments):
		t.Error("it goes on")
	}
}
