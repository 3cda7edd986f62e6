package engine

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/k3s-io/k3s/pkg/cli/cmds"

	"github.com/rancher/rke2/runtime/config"
)

func TestSaidSince(t *testing.T) {
	dir := t.TempDir()
	started := time.Now().Add(-time.Minute)
	line := func(at time.Time, text string) string {
		return at.Format(time.RFC3339Nano) + " stderr F " + text + "\n"
	}
	for name, c := range map[string]struct {
		log  string
		want bool
	}{
		"other words":        {line(started.Add(time.Second), "serving"), false},
		"removed":            {line(started.Add(time.Second), "serving") + line(started.Add(2*time.Second), `{"msg":"server error","error":"`+expelled[0]+`"}`), true},
		"removed long ago":   {line(started.Add(-time.Second), expelled[0]) + line(started.Add(time.Second), "serving"), false},
		"words without time": {expelled[0] + "\n", false},
		"far from the end":   {line(started.Add(time.Second), expelled[1]) + strings.Repeat(line(started.Add(time.Second), "serving"), 4000), false},
	} {
		folder := filepath.Join(dir, "kube-system_etcd-one_"+strings.ReplaceAll(name, " ", "-"), "etcd")
		if err := os.MkdirAll(folder, 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(folder, "0.log"), c.log)
		got, err := saidSince(filepath.Join(folder, "*.log"), started, expelled)
		if err != nil || got != c.want {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	if got, err := saidSince(filepath.Join(dir, "no", "*.log"), started, expelled); got || err != nil {
		t.Errorf("no log: %v, %v", got, err)
	}
}

// TestRemovedServer: what a mark of removal leads to.
func TestRemovedServer(t *testing.T) {
	before := cmds.ServerConfig
	t.Cleanup(func() { cmds.ServerConfig = before })
	c := config.Config{Role: config.Server, DataDir: t.TempDir()}
	mark := removedMark(c.DataDir)
	if err := checkMembership(c); err != nil {
		t.Errorf("not removed: %v", err)
	}
	write(t, mark, "")

	cmds.ServerConfig.ServerURL, cmds.ServerConfig.ClusterReset = "", false
	var removed *RemovedError
	if err := checkMembership(c); !errors.As(err, &removed) || !strings.Contains(err.Error(), "server: https://") || !strings.Contains(err.Error(), filepath.Dir(mark)) {
		t.Errorf("nowhere to join: %v", err)
	}
	if _, err := os.Stat(mark); err != nil {
		t.Errorf("the mark is gone: %v", err)
	}
	cmds.ServerConfig.ServerURL = "https://198.51.100.10:9345"
	if err := checkMembership(c); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(tombstone(c.DataDir)); err != nil {
		t.Errorf("the engine is not told to join anew: %v", err)
	}
	if _, err := os.Stat(mark); err == nil {
		t.Error("the mark stayed")
	}
	write(t, mark, "")
	cmds.ServerConfig.ServerURL, cmds.ServerConfig.ClusterReset = "", true
	if err := checkMembership(c); err != nil {
		t.Errorf("reset: %v", err)
	}
	if _, err := os.Stat(mark); err == nil {
		t.Error("the mark outlived the reset")
	}
}
