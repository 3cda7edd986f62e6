package node

import (
	"context"
	"time"

	"github.com/rancher/rke2/runtime/stage"
)

// forgetEvery is how often it is looked whether an old runtime can go.
const forgetEvery = 15 * time.Second

// forgetOldRuntimes removes the staged roots of other releases as soon as nothing runs
// from them any more, until ctx is done or only this node's own is left.
func (c *Content) forgetOldRuntimes(ctx context.Context, inUse func(dir string) bool, every time.Duration) {
	for {
		staged, err := stage.All(c.config.DataDir)
		if err == nil && len(staged) < 2 {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(every):
		}
		removed, err := stage.Prune(c.config.DataDir, c.root, inUse)
		for _, dir := range removed {
			c.log.Info("removed an old staged runtime, from which nothing runs any more", "dir", dir)
		}
		if err != nil {
			c.log.Warn("old runtimes stay on disk", "error", err)
			return
		}
	}
}

// runsFrom tells whether anything on this host was started from a staged root.
func runsFrom(dir string) bool { return stage.Host().From(dir) != "" }
