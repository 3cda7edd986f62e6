package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What is declared wrongly gives an error that names file and line, and changes no
// product.
func TestBadDeclarations(t *testing.T) {
	root := project(t)
	t.Setenv("COSIGN_PASSWORD", "")
	if code, _, msg := invoke(t, "all"); code != 0 {
		t.Fatalf("all: %d\n%s", code, msg)
	}
	before := sums(t, filepath.Join(root, "dist"))
	for _, c := range []struct {
		what, file, content string
		wants               []string
	}{
		{"key of the product", "images/product.yaml", "version-of: tiny\nrelease: rke2r1\nfips140: v1.0.0\nregistry: docker.io\nrepo: rancher\nreop: x\n", []string{"product.yaml:6", "reop"}},
		{"key of a component", "images/tiny/image.yaml", "description: a tiny program\nversion: v1.2.3\nldflag: [x]\nimage: {name: tiny, role: tiny, sets: [core]}\n", []string{"tiny/image.yaml:3", "ldflag"}},
		{"key of an image", "images/tiny/image.yaml", "description: a tiny program\nversion: v1.2.3\nimage:\n  name: tiny\n  role: tiny\n  set: [core]\n", []string{"tiny/image.yaml:6", "set"}},
		{"no YAML", "images/tiny/image.yaml", "description: [a tiny program\n", []string{"tiny/image.yaml:"}},
		{"go.mod", "images/tiny/go.mod", "module example.com/tiny\n\ngo 1.25.0\n\nneed example.com/x v1\n", []string{"tiny/go.mod:5", "need"}},
		{"Dockerfile with RUN", "images/tiny/Dockerfile", "FROM scratch\nCOPY --from=tiny / /bin/\nRUN rm /bin/tiny\n", []string{"tiny/Dockerfile:3", "RUN"}},
		{"Dockerfile with ADD", "images/tiny/Dockerfile", "FROM scratch\n\nADD https://example.com/x /\n", []string{"tiny/Dockerfile:3", "ADD"}},
		{"Dockerfile with two stages", "images/tiny/Dockerfile", "FROM scratch AS a\nFROM scratch\nCOPY --from=a / /\n", []string{"tiny/Dockerfile:"}},
		{"unknown context", "images/tiny/Dockerfile", "FROM scratch\nCOPY --from=tinny / /bin/\n", []string{"tiny/Dockerfile:2", `"tinny"`, "known are: tiny"}},
		{"unknown base", "images/tiny/Dockerfile", "# ours\nFROM debian\nCOPY --from=tiny / /bin/\n", []string{"tiny/Dockerfile:2", "debian"}},
		{"no such path in a context", "images/tiny/Dockerfile", "FROM scratch\nCOPY --from=tiny /sbin/tiny /bin/\n", []string{"tiny/Dockerfile:2", "/sbin/tiny"}},
		{"no such file beside it", "images/tiny/Dockerfile", "FROM scratch\nCOPY tiny.conf /etc/\n", []string{"tiny/Dockerfile:2", "tiny.conf"}},
		{"path out of the folder", "images/tiny/Dockerfile", "FROM scratch\nCOPY ../product.yaml /etc/\n", []string{"tiny/Dockerfile:2"}},
		{"unknown argument", "images/tiny/Dockerfile", "FROM scratch\nCOPY --from=tiny / $NOWHERE/bin/\n", []string{"tiny/Dockerfile:2", "NOWHERE"}},
		{"source that does not compile", "images/tiny/main.go", "package main\n\nfunc main() { printn(\"tiny\") }\n", []string{"tiny", "main.go:3", "printn"}},
	} {
		t.Run(c.what, func(t *testing.T) {
			file := filepath.Join(root, c.file)
			good, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(c.content), 0o644); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := os.WriteFile(file, good, 0o644); err != nil {
					t.Fatal(err)
				}
			})
			code, _, msg := invoke(t, "all")
			if code != exitFailure {
				t.Errorf("exit %d", code)
			}
			for _, w := range c.wants {
				if !strings.Contains(msg, w) {
					t.Errorf("no %q in: %s", w, msg)
				}
			}
			after := sums(t, filepath.Join(root, "dist"))
			for p, s := range before {
				if after[p] != s {
					t.Errorf("%s was changed", p)
				}
			}
			for p := range after {
				if _, ok := before[p]; !ok {
					t.Errorf("%s is new", p)
				}
			}
		})
	}
}

// sums gives the content of every file below a folder.
func sums(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(p)
		out[p] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
