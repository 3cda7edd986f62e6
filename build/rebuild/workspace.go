package rebuild

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/rancher/rke2/build/cache"
)

// fetched are the kinds of cache entries that are files as somebody else published
// them, named by their SHA-256: not results of a build.
var fetched = []string{"debian-file", "upstream-blob"}

// Workspace is an empty place to build in: nothing that an earlier build left is seen.
type Workspace struct {
	Dir  string
	cold bool
}

// NewWorkspace makes a workspace in dir, which must be empty or not there; "" is a new
// temporary folder. A cold one fetches what others published anew, too.
func NewWorkspace(dir string, cold bool) (*Workspace, error) {
	if dir == "" {
		tmp, err := os.MkdirTemp("", "rke2-rebuild-")
		if err != nil {
			return nil, fmt.Errorf("making a place to rebuild in: %w", err)
		}
		dir = tmp
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("making a place to rebuild in: %w", err)
	}
	entries, err := os.ReadDir(abs)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("making a place to rebuild in: %w", err)
	}
	if len(entries) > 0 {
		return nil, fmt.Errorf("%s is not empty: a rebuild needs a folder where nothing is left of another build", abs)
	}
	w := &Workspace{Dir: abs, cold: cold}
	for _, d := range []string{w.Cache(), w.Out(), w.goCache(), w.modules()} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, fmt.Errorf("making a place to rebuild in: %w", err)
		}
	}
	return w, nil
}

// Cache is the folder of the build cache.
func (w *Workspace) Cache() string { return filepath.Join(w.Dir, "cache") }

// Out is the folder of the products, with the layout oci in it.
func (w *Workspace) Out() string { return filepath.Join(w.Dir, "dist") }

func (w *Workspace) goCache() string { return filepath.Join(w.Dir, "go-build") }
func (w *Workspace) modules() string { return filepath.Join(w.Dir, "go-mod") }

// Environ is what the go command is told: name and value.
func (w *Workspace) Environ() map[string]string {
	env := map[string]string{"GOCACHE": w.goCache()}
	if w.cold {
		env["GOMODCACHE"] = w.modules()
	}
	return env
}

// Share takes over, from a build cache, what others published: each file after its
// SHA-256 was checked, by a second name for it where the file system can. A cold
// workspace takes nothing.
func (w *Workspace) Share(cache string) (files int, err error) {
	if w.cold {
		return 0, nil
	}
	for _, kind := range fetched {
		entries, err := os.ReadDir(filepath.Join(cache, kind))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return files, fmt.Errorf("sharing fetched files: %w", err)
		}
		for _, e := range entries {
			if !e.IsDir() || len(e.Name()) != sha256.Size*2 || strings.HasPrefix(e.Name(), ".") {
				continue
			}
			n, err := share(filepath.Join(cache, kind, e.Name()), filepath.Join(w.Cache(), kind, e.Name()))
			if err != nil {
				return files, fmt.Errorf("sharing fetched files: %w", err)
			}
			files += n
		}
	}
	return files, nil
}

// share links an entry of one file that is what its name says. Any other is left to be
// fetched again.
func share(from, to string) (int, error) {
	entries, err := os.ReadDir(from)
	if err != nil {
		return 0, err
	}
	if len(entries) != 1 || !entries[0].Type().IsRegular() {
		return 0, nil
	}
	file := filepath.Join(from, entries[0].Name())
	sum, err := cache.Sum(file)
	if err != nil || sum != filepath.Base(from) {
		return 0, err
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return 0, err
	}
	target := filepath.Join(to, entries[0].Name())
	if os.Link(file, target) == nil {
		return 1, nil
	}
	return 1, copyFile(file, target)
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		_ = out.Close()
		return err
	}
	return out.Close()
}

// Remove removes the workspace. The go command makes the folders of modules read-only.
func (w *Workspace) Remove() error {
	err := filepath.WalkDir(w.modules(), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			err = os.Chmod(path, 0o755)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	if err = errors.Join(err, os.RemoveAll(w.Dir)); err != nil {
		return fmt.Errorf("removing the rebuild: %w", err)
	}
	return nil
}

// CompareFiles compares files beside the layouts, such as SBOMs: those of the given
// relative paths, each of which must be in both folders.
func CompareFiles(built, rebuilt string, paths []string) ([]Result, error) {
	slices.Sort(paths)
	var out []Result
	for _, p := range paths {
		r, err := compareFile(filepath.Join(built, p), filepath.Join(rebuilt, p))
		if err != nil {
			return nil, fmt.Errorf("comparing %s: %w", p, err)
		}
		r.Reference = p
		if r.Difference != nil {
			r.Difference.Part = p
		}
		r.Equal = r.Difference == nil
		out = append(out, r)
	}
	return out, nil
}

func compareFile(a, b string) (Result, error) {
	var r Result
	fa, errA := os.ReadFile(a)
	fb, errB := os.ReadFile(b)
	for _, err := range []error{errA, errB} {
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return r, err
		}
	}
	if errA != nil || errB != nil {
		r.Difference = &Difference{What: "file", Built: there(errA == nil), Rebuilt: there(errB == nil)}
		return r, nil
	}
	r.Built, r.Rebuilt = digest(fa), digest(fb)
	if r.Built == r.Rebuilt {
		return r, nil
	}
	d, err := differentJSON("", rawJSON(fa), rawJSON(fb))
	if d == nil {
		d = &Difference{What: "content"}
		d.Bytes, err = firstBytes(strings.NewReader(string(fa)), strings.NewReader(string(fb)))
	}
	r.Difference = d
	return r, err
}
