package node

import (
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rancher/rke2/runtime/config"
	"github.com/rancher/rke2/runtime/stage"
)

// TestForgetOldRuntimes: what another release staged goes when nothing runs from it any
// more, and not before.
func TestForgetOldRuntimes(t *testing.T) {
	data := t.TempDir()
	root := func(name string) string {
		dir := filepath.Join(data, "data", name)
		for _, sub := range []string{"bin", "charts"} {
			if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		record := `{"image": "sha256:00", "files": {"bin/kubelet": {"sha256": "00", "size": 1, "mode": 493, "layer": 0}}}`
		if err := os.WriteFile(filepath.Join(dir, ".files.json"), []byte(record), 0o644); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	mine, other := root("v1-000000000001"), root("v0-000000000002")
	c := &Content{config: config.Config{DataDir: data}, root: stage.Root{Dir: mine}, log: slog.New(slog.DiscardHandler)}
	synctest.Test(t, func(t *testing.T) {
		var used atomic.Bool
		used.Store(true)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			c.forgetOldRuntimes(t.Context(), func(dir string) bool { return dir == other && used.Load() }, time.Second)
		}()
		time.Sleep(5500 * time.Millisecond)
		if _, err := os.Stat(other); err != nil {
			t.Errorf("it went while something ran from it: %v", err)
		}
		used.Store(false)
		time.Sleep(2 * time.Second)
		if _, err := os.Stat(other); err == nil {
			t.Error("it stays though nothing runs from it")
		}
		<-ended // with nothing left to look for
	})
	if _, err := os.Stat(mine); err != nil {
		t.Errorf("this node's own went: %v", err)
	}
}
