package node

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Plugins puts the CNI plugins of component cni-plugins, which no image of the
// product holds yet, into dir. They are compiled, or taken from the build cache.
// The working directory must be in the source folder.
func (p Products) Plugins(ctx context.Context, dir string) error {
	cmd := exec.CommandContext(ctx, p.Build, "compile", "cni-plugins", "-o", "json")
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("making CNI plugins: %s: %w\n%s", cmd, err, said.Bytes())
	}
	var compiled []struct {
		Binaries []struct{ Name, Path string } `json:"binaries"`
	}
	if err := json.Unmarshal(out, &compiled); err != nil {
		return fmt.Errorf("making CNI plugins: %s: reading its output: %w", cmd, err)
	}
	for _, c := range compiled {
		for _, b := range c.Binaries {
			program, err := os.ReadFile(b.Path)
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(dir, b.Name), program, 0o755); err != nil {
				return err
			}
		}
	}
	for _, name := range []string{"bridge", "host-local", "loopback", "portmap"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("making CNI plugins: component cni-plugins has no %s", name)
		}
	}
	return nil
}
