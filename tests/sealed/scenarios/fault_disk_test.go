//go:build linux

package scenarios

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rancher/rke2/tests/sealed"
	"github.com/rancher/rke2/tests/sealed/node"
)

// TestFullDiskDuringImport: the disk fills up while images are imported, which nothing
// could foresee. The log says where and how much room there is; the node waits and goes on
// by itself when there is room again. Nothing half-written stays.
func TestFullDiskDuringImport(t *testing.T) {
	p := products(t)
	n := newNode(t, node.Options{Name: "filling", Binary: p.Binary, Bundles: []string{p.Bundle}})
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), bootLimit)
	defer cancel()
	const disk = node.DataDir + "/agent/containerd"
	shell := func(script string) {
		t.Helper()
		if out, err := n.Command(ctx, "sh", "-ec", script).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", script, err, out)
		}
	}
	says := func(what string) string {
		t.Helper()
		var line string
		err := sealed.Wait(ctx, "the log to say "+what, stepLimit, func(context.Context) error {
			select {
			case <-n.Exited():
				return sealed.Hopeless(fmt.Errorf("rke2 has ended:\n%s", n.LastWords()))
			default:
			}
			log, err := n.Log()
			if err == nil {
				if line = regexp.MustCompile(`(?m)^.*` + what + `.*$`).FindString(log); line == "" {
					err = errors.New("it does not")
				}
			}
			return err
		})
		if err != nil {
			t.Fatalf("%v\n%s", err, n.LastWords())
		}
		return line
	}
	shell(fmt.Sprintf("mkdir -p %[1]s && mount -t tmpfs -o size=3g none %[1]s", disk))
	if err := n.Start(ctx); err != nil {
		t.Fatal(err)
	}
	catch(ctx, t, n, "while images are imported", content+"/ingest/*/data")
	shell(fmt.Sprintf("dd if=/dev/zero of=%[1]s/somebodys-file bs=16M || stat -f %[1]s", disk)) // until it is full
	line := says("images are not imported")
	for _, w := range []string{"is full", "MB are free", disk} {
		if !strings.Contains(line, w) {
			t.Errorf("the error does not say %q:\n%s", w, line)
		}
	}
	t.Log(line)
	shell("rm " + disk + "/somebodys-file")
	says("the import goes on")
	says("images are ready")
	left, err := filepath.Glob(n.Path(content + "/ingest/*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left of the import: %s, %v", left, err)
	}
}
