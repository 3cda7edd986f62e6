package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rancher/rke2/runtime/closure"
)

// TestBundleClosure runs without a release, which is a fault of its own: it does not
// know what a node needs. What manifests need it knows.
func TestBundleClosure(t *testing.T) {
	layout, _ := bundleFixture(t)
	dir := t.TempDir()
	if out, err := run("bundle", "airgap", "--layout", layout, "--output-dir", dir); err != nil {
		t.Fatal(err, out)
	}
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	pod := func(image string) string {
		return write("pod.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: main, image: '"+image+"'}]}\n")
	}
	config := write("config.yaml", "cni: none\n")
	base := []string{"bundle", "closure", "--config", config, "--platform", "linux/amd64"}

	for _, c := range []struct {
		what string
		args []string
		says []string
		err  string
	}{
		{"what is there", []string{"--manifests", pod(bundleImage), dir},
			[]string{bundleImage + "  rke2-images-core.linux-amd64.tar  manifest /", "FAULT  this rke2 was built without a release", "1 image needed on linux/amd64, 1 in 1 bundle; 0 charts rendered"}, "1 fault found"},
		{"another tag", []string{"--manifests", pod("rancher/rke2-runtime:v2"), filepath.Join(dir, "rke2-images-core.linux-amd64.tar")},
			[]string{"rancher/rke2-runtime:v2  NONE", "GAP  docker.io/rancher/rke2-runtime:v2: other tags of the repository are there", "needed by: manifest ", "Pod/web, container main", "rke2-images-core.linux-amd64.tar has: " + bundleImage + " linux/amd64"}, "1 image of 1 in no bundle, 1 fault found"},
		{"what may be absent", []string{"--image", "example.com/a:1", "--optional", "example.com/*", dir}, []string{"example.com/a:1  none (optional)  command line"}, "1 fault found"},
		{"another platform", []string{"--manifests", pod(bundleImage), "--platform", "linux/arm64", dir}, []string{"for another platform only"}, "in no bundle"},
		{"a platform that is none", []string{"--platform", "a/b/c/d/e", dir}, nil, "--platform"},
		{"no such bundle", []string{filepath.Join(dir, "none.tar")}, nil, "none.tar"},
		{"a file that is no bundle", []string{config}, nil, "not an image archive"},
		{"no such configuration", []string{"--config", filepath.Join(dir, "none.yaml"), dir}, nil, "none.yaml"},
		{"no such manifests", []string{"--manifests", filepath.Join(dir, "none"), dir}, nil, "none"},
		{"a wrong configuration", []string{"--config", write("config.yaml", "- a\n"), dir}, nil, "line 1"},
		{"another format", []string{"-o", "xml", dir}, nil, "xml"},
	} {
		t.Run(c.what, func(t *testing.T) {
			out, err := run(append(base[:len(base):len(base)], c.args...)...)
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("got %v, want %q", err, c.err)
			}
			for _, s := range c.says {
				if !strings.Contains(out, s) {
					t.Errorf("no %q in\n%s", s, out)
				}
			}
		})
	}
	out, err := run(append(base, "-o", "json", "--manifests", pod("example.com/b:1"), dir)...)
	if err == nil {
		t.Error("a gap is no error")
	}
	var r closure.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	if r.Complete || len(r.Images) != 1 || r.Images[0].Gap == nil || r.Images[0].Needs[0].Container != "main" || r.Bundles[0].Images != 1 {
		t.Errorf("got %+v", r)
	}
}
