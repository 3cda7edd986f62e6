// Command align gives modules that compile the same libraries the same versions of them, so that
// Go's build cache compiles each library once, and one update mends a fault in all of
// them. The highest version that a module of the group asks for wins, as within one
// module; a replacement of a group's first module holds for the others.
//
// Run it in the project's folder after an update of one of them: go run ./hack/align
package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"
)

// groups are folders of modules. Not here: those whose upstream holds them at an old
// minor of Kubernetes (Calico, ingress-nginx, containerd), and Kubernetes itself, which is
// built with what its release names.
var groups = [][]string{
	{".", "images/cloud-provider", "airgap/testdata/tools/cosign", "airgap/testdata/tools/crane"},
	{"images/coredns", "images/flannel", "images/klipper-helm", "images/metrics-server", "images/snapshot-controller",
		"airgap/serve/testdata/tools/helm", "airgap/publish/testdata/tools/registry"},
}

func main() {
	for _, dirs := range groups {
		if err := align(dirs); err != nil {
			fmt.Fprintln(os.Stderr, "align:", err)
			os.Exit(1)
		}
	}
}

// align changes go.mod files until none differs: an update may ask for others.
func align(dirs []string) error {
	for range 10 {
		late, err := differences(".", dirs)
		if err != nil || len(late) == 0 {
			return err
		}
		for _, dir := range dirs {
			var edits []string
			for _, d := range late {
				if d.dir == dir {
					fmt.Println(d)
					edits = append(edits, d.edit())
				}
			}
			if len(edits) == 0 {
				continue
			}
			if err := update(dir, edits); err != nil {
				return err
			}
		}
	}
	return fmt.Errorf("%s do not come to rest", strings.Join(dirs, ", "))
}

// update edits the go.mod in dir; go mod tidy then raises what the edits ask for.
func update(dir string, edits []string) error {
	for _, args := range [][]string{append([]string{"mod", "edit"}, edits...), {"mod", "tidy"}} {
		cmd := exec.Command("go", args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off")
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("go %s in %s: %w", strings.Join(args[:2], " "), dir, err)
		}
	}
	return nil
}

// A difference is a module that dir has in another version than its group.
type difference struct {
	dir, path string
	has       string
	want      module.Version
	replaced  bool // by want
}

func (d difference) String() string {
	return fmt.Sprintf("%s: %s %s, in its group %s", d.dir, d.path, d.has, d.want)
}

// edit is an argument of go mod edit.
func (d difference) edit() string {
	if d.replaced {
		return "-replace=" + d.path + "=" + d.want.String()
	}
	return "-require=" + d.want.String()
}

// differences of the modules in dirs, which are below root.
func differences(root string, dirs []string) ([]difference, error) {
	files := map[string]*modfile.File{}
	replaced := map[string]module.Version{}
	highest := map[string]string{}
	for i, dir := range dirs {
		name := filepath.Join(root, dir, "go.mod")
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		f, err := modfile.Parse(name, data, nil)
		if err != nil {
			return nil, err
		}
		files[dir] = f
		for _, r := range f.Replace {
			if i == 0 && r.Old.Version == "" {
				replaced[r.Old.Path] = r.New
			}
		}
		for _, r := range f.Require {
			if semver.Compare(r.Mod.Version, highest[r.Mod.Path]) > 0 {
				highest[r.Mod.Path] = r.Mod.Version
			}
		}
	}
	var out []difference
	for _, dir := range dirs {
		own := map[string]module.Version{}
		for _, r := range files[dir].Replace {
			own[r.Old.Path] = r.New
		}
		for _, r := range files[dir].Require {
			d := difference{dir: dir, path: r.Mod.Path, has: r.Mod.Version, want: module.Version{Path: r.Mod.Path, Version: highest[r.Mod.Path]}}
			has := r.Mod
			mine, ok := own[r.Mod.Path]
			if ok {
				d.has, has = mine.String(), mine
			}
			if to, held := replaced[r.Mod.Path]; held {
				d.want, d.replaced = to, true
			} else if ok {
				continue // upstream's own reasons
			}
			if has != d.want {
				out = append(out, d)
			}
		}
	}
	return out, nil
}
