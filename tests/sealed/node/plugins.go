package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Plugins puts the CNI plugins of component cni-plugins, which no image of the
// product holds yet, into dir. They are compiled, or taken from the build cache.
// The working directory must be in the source folder.
func (p Products) Plugins(ctx context.Context, dir string) error {
	programs, err := p.compiled(ctx, "cni-plugins")
	if err != nil {
		return fmt.Errorf("making CNI plugins: %w", err)
	}
	for name, path := range programs {
		program, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), program, 0o755); err != nil {
			return err
		}
	}
	for _, name := range []string{"bridge", "host-local", "loopback", "portmap"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("making CNI plugins: component cni-plugins has no %s", name)
		}
	}
	return nil
}

// Helm is the path of Helm's own command line, built from the module that the helm job's
// Helm is of. It is compiled, or taken from the build cache. The working directory must
// be in the source folder.
func (p Products) Helm(ctx context.Context) (string, error) {
	programs, err := p.compiled(ctx, "klipper-helm")
	if err != nil {
		return "", fmt.Errorf("making helm: %w", err)
	}
	path, ok := programs["helm"]
	if !ok {
		return "", errors.New("making helm: component klipper-helm has no tool of that name")
	}
	return path, nil
}

// compiled are the paths of a component's programs by name.
func (p Products) compiled(ctx context.Context, component string) (map[string]string, error) {
	cmd := exec.CommandContext(ctx, p.Build, "compile", component, "-o", "json")
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", cmd, err, said.Bytes())
	}
	var compiled []struct {
		Binaries []struct{ Name, Path string } `json:"binaries"`
	}
	if err := json.Unmarshal(out, &compiled); err != nil {
		return nil, fmt.Errorf("%s: reading its output: %w", cmd, err)
	}
	programs := map[string]string{}
	for _, c := range compiled {
		for _, b := range c.Binaries {
			programs[b.Name] = b.Path
		}
	}
	return programs, nil
}
