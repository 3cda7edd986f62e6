// Package outdated finds what there are newer versions of: of Go modules by the go
// command, which asks its proxy; of Debian packages and upstream images by resolving
// their locks again. It changes nothing.
package outdated

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"golang.org/x/mod/modfile"
	"golang.org/x/sync/errgroup"

	"github.com/rancher/rke2/build/lock"
	"github.com/rancher/rke2/images"
)

// parallel is how many wrapper modules are looked at at a time.
const parallel = 4

// Entry is something that has a newer version.
type Entry struct {
	Component string `json:"component"`
	Kind      string `json:"kind"` // "module", "debian", "source" or "upstream"
	Name      string `json:"name"`
	Arch      string `json:"arch,omitempty"` // "" for all
	Current   string `json:"current"`        // "" if it comes along with what is newer
	Newest    string `json:"newest"`         // "" if it isn't needed by what is newer
	// Problem says why nobody knows: the proxy doesn't serve the module's versions.
	Problem string `json:"problem,omitempty"`
}

// Find looks the components up. o has the resolvers of locks.
func Find(ctx context.Context, components []images.Component, o lock.Options) ([]Entry, error) {
	perComponent := make([][]Entry, len(components))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for i, c := range components {
		if c.Kind != images.KindGo {
			continue
		}
		g.Go(func() (err error) {
			perComponent[i], err = modules(gctx, c)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	changes, err := lock.Newer(ctx, components, o)
	if err != nil {
		return nil, err
	}
	kinds := map[string]string{}
	for _, c := range components {
		kinds[c.Name] = map[images.Kind]string{images.KindSource: "source", images.KindUpstream: "upstream"}[c.Kind]
	}
	out := locked(changes, kinds)
	for _, e := range perComponent {
		out = append(out, e...)
	}
	sort.SliceStable(out, func(i, j int) bool {
		a, b := out[i], out[j]
		return a.Component+"\x00"+a.Kind+"\x00"+a.Name+"\x00"+a.Arch < b.Component+"\x00"+b.Kind+"\x00"+b.Name+"\x00"+b.Arch
	})
	return out, nil
}

// locked makes one entry of what is the same on all architectures.
func locked(changes []lock.Change, kinds map[string]string) []Entry {
	seen := map[Entry][]string{}
	var order []Entry
	for _, c := range changes {
		kind := "debian"
		if c.Arch == "" {
			kind = kinds[c.Component]
		}
		e := Entry{Component: c.Component, Kind: kind, Name: c.Name, Current: c.Before, Newest: c.After}
		if seen[e] == nil {
			order = append(order, e)
		}
		seen[e] = append(seen[e], c.Arch)
	}
	var out []Entry
	for _, e := range order {
		if archs := seen[e]; len(archs) < len(lock.Arches) {
			e.Arch = archs[0]
		}
		out = append(out, e)
	}
	return out
}

// built lists the modules that a wrapper is about, in the versions that are built: a
// replacement stands for what it replaces. Folders have no versions.
func built(c images.Component, f *modfile.File) []string {
	var out []string
	for _, r := range f.Require {
		if r.Indirect && !about(c, f, r.Mod.Path) {
			continue
		}
		mod := r.Mod
		for _, rep := range f.Replace {
			if rep.Old.Path == mod.Path && (rep.Old.Version == "" || rep.Old.Version == mod.Version) {
				mod = rep.New
			}
		}
		if mod.Version != "" {
			out = append(out, mod.String())
		}
	}
	return out
}

// about tells whether a component's commands or files are of a module. The go command
// calls modules indirect that only tool directives need.
func about(c images.Component, f *modfile.File, module string) bool {
	if module == c.Module {
		return true
	}
	for _, t := range f.Tool {
		if t.Path == module || strings.HasPrefix(t.Path, module+"/") {
			return true
		}
	}
	return slices.ContainsFunc(c.Files, func(m images.ModuleFiles) bool { return m.Module == module })
}

// module is what go list says of one.
type module struct {
	Path    string
	Version string
	Update  *module
	Error   *struct{ Err string }
}

// modules asks the go command for newer versions of what a wrapper requires directly.
func modules(ctx context.Context, c images.Component) ([]Entry, error) {
	gomod := filepath.Join(c.Dir, "go.mod")
	data, err := os.ReadFile(gomod)
	if err != nil {
		return nil, fmt.Errorf("component %s: %w", c.Name, err)
	}
	f, err := modfile.Parse(gomod, data, nil)
	if err != nil {
		return nil, fmt.Errorf("component %s: %w", c.Name, err)
	}
	wanted := built(c, f)
	if len(wanted) == 0 {
		return nil, nil
	}
	args := []string{"list", "-e", "-m", "-u", "-mod=readonly", "-json=Path,Version,Update,Error"}
	cmd := exec.CommandContext(ctx, "go", append(args, wanted...)...)
	cmd.Dir = c.Dir
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("component %s: asking for newer modules: %w: %s", c.Name, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return parse(c.Name, out)
}

func parse(component string, listed []byte) ([]Entry, error) {
	var out []Entry
	dec := json.NewDecoder(bytes.NewReader(listed))
	for {
		var m module
		if err := dec.Decode(&m); errors.Is(err, io.EOF) {
			return out, nil
		} else if err != nil {
			return nil, fmt.Errorf("component %s: reading what go list says: %w", component, err)
		}
		e := Entry{Component: component, Kind: "module", Name: m.Path, Current: m.Version}
		switch {
		case m.Error != nil:
			e.Problem = strings.TrimSpace(m.Error.Err)
			out = append(out, e)
		case m.Update != nil:
			e.Newest = m.Update.Version
			out = append(out, e)
		}
	}
}
