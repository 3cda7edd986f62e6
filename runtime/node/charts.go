package node

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/rancher/rke2/runtime/config"
	"github.com/rancher/rke2/runtime/durable"
	"github.com/rancher/rke2/runtime/stage"
)

// deliverCharts copies the staged charts to where the deploy controller looks.
// Only servers have one, and what the user put there stays.
func deliverCharts(root stage.Root, c config.Config) error {
	if c.Role != config.Server {
		return nil
	}
	entries, err := os.ReadDir(root.Charts())
	if err != nil {
		return fmt.Errorf("delivering charts: %w", err)
	}
	target := filepath.Join(c.DataDir, "server", "manifests")
	if err := os.MkdirAll(target, 0o700); err != nil {
		return fmt.Errorf("delivering charts: %w", err)
	}
	for _, entry := range entries {
		raw, err := os.ReadFile(filepath.Join(root.Charts(), entry.Name()))
		if err != nil {
			return fmt.Errorf("delivering charts: %w", err)
		}
		if err := durable.WriteFile(filepath.Join(target, entry.Name()), raw, 0o600); err != nil {
			return fmt.Errorf("delivering charts: %w", err)
		}
	}
	return nil
}
