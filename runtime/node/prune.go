package node

import (
	"log/slog"

	"github.com/rancher/rke2/runtime/stage"
)

// prune removes the staged runtimes of other versions, and says what keeps the others.
func prune(dataDir string, current stage.Root, log *slog.Logger) {
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
