package node

import (
	"log/slog"
	"path/filepath"

	"github.com/rancher/rke2/runtime/stage"
)

// prune removes the staged runtimes of other versions, and says what keeps the others. What
// runs that were cut short had got of an image is of no use any more either.
func prune(dataDir string, current stage.Root, log *slog.Logger) {
	for _, prefix := range []string{pulledPrefix, unpackedPrefix} {
		removeAll(filepath.Join(dataDir, "data", prefix+"*"))
	}
	removed, err := stage.Prune(dataDir, current, func(dir string) bool {
		by := stage.Host().From(dir)
		if by != "" {
			log.Info("an old staged runtime stays while something runs from it", "dir", dir, "what", by)
		}
		return by != ""
	})
	if err != nil {
		log.Warn("old runtimes stay on disk", "error", err)
	}
	for _, dir := range removed {
		log.Info("removed an old staged runtime", "dir", dir)
	}
}
