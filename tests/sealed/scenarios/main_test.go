//go:build linux

package scenarios

import (
	"context"
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

func TestMain(m *testing.M) {
	os.Exit(sealed.Guard(func() int {
		if file := figures(); file != "" {
			_ = os.Remove(file) // an earlier run's
		}
		return m.Run()
	}))
}

// figures is the file that the figures of a run are written to: in the folder of
// the products that they are about. Empty if there is none.
func figures() string {
	p, err := node.FindProducts()
	if err != nil {
		return ""
	}
	return filepath.Join(p.Dir, "sealed-figures.txt")
}

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
	// The test's own context is done before its logs can be collected.
	ctx := context.WithoutCancel(t.Context())
	n, err := node.New(ctx, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			dir := filepath.Join(logsDir(), regexp.MustCompile(`[^A-Za-z0-9]+`).ReplaceAllString(t.Name(), "-")+"-"+n.Name()+time.Now().Format("-20060102-150405"))
			err := n.Collect(ctx, dir)
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
	dir := t.TempDir()
	if err := p.Plugins(t.Context(), dir); err != nil {
		t.Fatal(err)
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

func copyFile(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o755)
}

// report prints a figure, and adds it to the file of this run's figures.
func report(t *testing.T, what string, value any) {
	t.Helper()
	if d, ok := value.(time.Duration); ok {
		value = fmt.Sprintf("%.1f s", d.Seconds())
	}
	line := fmt.Sprintf("%s: %v (%d cores)", what, value, runtime.NumCPU())
	fmt.Println("figure:", line)
	f, err := os.OpenFile(figures(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Error(err)
		return
	}
	_, err = fmt.Fprintln(f, line)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Error(err)
	}
}
