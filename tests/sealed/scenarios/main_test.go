//go:build linux

package scenarios

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"testing"
	"time"

	"github.com/rancher/rke2/tests/sealed"
	"github.com/rancher/rke2/tests/sealed/node"
)

func TestMain(m *testing.M) { os.Exit(sealed.Guard(m.Run)) }

// products skips the test where no host can be, and fails it where there is
// nothing to test.
func products(t *testing.T) node.Products {
	t.Helper()
	if err := sealed.Supported(); errors.Is(err, sealed.ErrUnsupported) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	p, err := node.FindProducts()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// newNode makes a node that ends with the test, whose logs are kept if it fails.
func newNode(t *testing.T, opts node.Options) *node.Node {
	t.Helper()
	n, err := node.New(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			dir := filepath.Join(logsDir(), regexp.MustCompile(`[^A-Za-z0-9]+`).ReplaceAllString(t.Name(), "-")+time.Now().Format("-20060102-150405"))
			err := n.Collect(context.Background(), dir)
			t.Logf("the node's logs are in %s (%v)", dir, err)
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// logsDir is where logs of failed tests stay: $RKE2_TEST_LOGS, or a folder for
// temporary files.
func logsDir() string {
	if dir := os.Getenv("RKE2_TEST_LOGS"); dir != "" {
		return dir
	}
	return filepath.Join(os.TempDir(), "rke2-sealed-logs")
}

// plugins is a folder of CNI plugins, built as the product's components are.
func plugins(t *testing.T, p node.Products) string {
	t.Helper()
	out, err := build(t, filepath.Dir(p.Dir), p.Build, "compile", "cni-plugins", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var compiled []struct {
		Binaries []struct{ Name, Path string } `json:"binaries"`
	}
	if err := json.Unmarshal(out, &compiled); err != nil {
		t.Fatalf("rke2-build compile says %s: %v", out, err)
	}
	dir := t.TempDir()
	for _, c := range compiled {
		for _, a := range c.Binaries {
			if err := copyFile(a.Path, filepath.Join(dir, a.Name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, name := range []string{"bridge", "host-local", "portmap", "loopback"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Fatalf("component cni-plugins has no %s: %s", name, out)
		}
	}
	return dir
}

// probe is the test's own program, static.
func probe(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "probe")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", path, "github.com/rancher/rke2/tests/sealed/cmd/probe")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building the probe: %v\n%s", err, out)
	}
	return path
}

func build(t *testing.T, dir, name string, args ...string) ([]byte, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	out, err := cmd.Output()
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		return nil, fmt.Errorf("%s: %w: %s", cmd, err, failed.Stderr)
	}
	return out, err
}

func copyFile(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o755)
}

// report prints a figure where it is seen in every run.
func report(t *testing.T, what string, value any) {
	t.Helper()
	if d, ok := value.(time.Duration); ok {
		value = fmt.Sprintf("%.1f s", d.Seconds())
	}
	fmt.Printf("figure: %s: %v (%d cores)\n", what, value, runtime.NumCPU())
}
