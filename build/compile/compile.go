// Package compile builds a component's commands from its wrapper module, once for each
// set of inputs: module files, own sources, flags, environment, toolchain and platform
// are hashed, and the result is kept under that hash. What comes out is asserted from
// the binary itself: the cryptographic module, and that it is static.
package compile

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/rancher/rke2/build/artifact"
	"github.com/rancher/rke2/build/cache"
	"github.com/rancher/rke2/build/cc"
	"github.com/rancher/rke2/build/debian"
	"github.com/rancher/rke2/build/lock"
	"github.com/rancher/rke2/images"
)

const (
	cacheKind = "binary"
	infoFile  = "info.json"
	// scheme is part of every key: raise it when this package builds differently.
	scheme = 1
)

// Compiler builds components of Go modules.
type Compiler struct {
	cache    *cache.Cache
	tools    *toolchain
	fips     string
	sysroots Sysroots
}

// Sysroots give C compilers the headers and libraries that a component is locked to.
type Sysroots interface {
	Sysroot(ctx context.Context, c images.Component, p Platform, fetching func(what []string)) (debian.Sysroot, error)
}

var _ Sysroots = (*debian.Archive)(nil)

// Artifact is a component's commands.
type Artifact struct {
	Component string              `json:"component"`
	Version   string              `json:"version"`
	Materials []artifact.Material `json:"-"` // C libraries
	Compiler  string              `json:"-"` // of C; "": none
	Platform  Platform            `json:"platform"`
	Binaries  []Binary            `json:"binaries"`
	Cached    bool                `json:"cached"` // nothing was built
	Elapsed   time.Duration       `json:"elapsed"`
}

// Binary is one command that was built and checked.
type Binary struct {
	Name   string `json:"name"`
	Path   string `json:"path"`   // in the cache: not to be changed
	SHA256 string `json:"sha256"` // hex, of the file
	Size   int64  `json:"size"`   // bytes
	Crypto string `json:"crypto"` // "fips140 v1.0.0-c2097c7c" in form, or "boringcrypto"
	Go     string `json:"go"`     // Go version in its build info
}

// New asks the installed toolchain for its versions. fips is the version of the Go
// Cryptographic Module. Where sysroots is nil, cgo takes this machine's libraries.
func New(ctx context.Context, c *cache.Cache, fips string, sysroots Sysroots) (*Compiler, error) {
	t, err := detect(ctx)
	if err != nil {
		return nil, err
	}
	return &Compiler{cache: c, tools: t, fips: fips, sysroots: sysroots}, nil
}

// GoVersion is the toolchain's: go1.26.8 in form.
func (c *Compiler) GoVersion() string { return c.tools.version }

// input is everything that a binary depends on.
type input struct {
	Scheme    int
	Go        string
	CC        string            `json:",omitempty"`
	Libraries map[string]string `json:",omitempty"` // sha256 of static C libraries
	Platform  Platform
	Settings  map[string]string
	Sources   map[string]string // sha256 of go.mod, go.sum and own sources
	Package   string
	Args      []string
	Crypto    images.Crypto
}

// job is one binary with its key.
type job struct {
	binary images.Binary
	key    string
	args   []string
}

// Hooks lets a caller watch a build. Both may be nil.
type Hooks struct {
	Building func(binaries []string) // before the go command is started, if it is
	Verbose  io.Writer               // gets what the go command says; errors have its end anyway
}

// Compile gives the component's commands, building those that the cache doesn't have.
func (c *Compiler) Compile(ctx context.Context, comp images.Component, p Platform, hooks Hooks) (Artifact, error) {
	start := time.Now()
	plan, err := c.plan(ctx, comp, p, hooks.Building)
	if err != nil {
		return Artifact{}, err
	}
	jobs := plan.jobs
	var missing []job
	found := map[string]Binary{}
	for _, j := range jobs {
		b, ok, err := c.lookup(j)
		if err != nil {
			return Artifact{}, err
		}
		if ok {
			found[b.Name] = b
		} else {
			missing = append(missing, j)
		}
	}
	if len(missing) > 0 && hooks.Building != nil {
		var names []string
		for _, j := range missing {
			names = append(names, j.binary.Name)
		}
		hooks.Building(names)
	}
	for _, group := range groups(missing) {
		built, err := c.build(ctx, comp, p, group, plan.env, hooks.Verbose)
		if err != nil {
			return Artifact{}, err
		}
		for _, b := range built {
			found[b.Name] = b
		}
	}
	a := Artifact{Component: comp.Name, Version: comp.Version, Platform: p, Materials: plan.materials, Compiler: plan.compiler, Cached: len(missing) == 0, Elapsed: time.Since(start)}
	for _, j := range jobs {
		a.Binaries = append(a.Binaries, found[j.binary.Name])
	}
	return a, nil
}

// Cached gives the component's commands if all of them were built before.
func (c *Compiler) Cached(ctx context.Context, comp images.Component, p Platform) (Artifact, bool, error) {
	plan, err := c.plan(ctx, comp, p, nil)
	if err != nil {
		return Artifact{}, false, err
	}
	a := Artifact{Component: comp.Name, Version: comp.Version, Platform: p, Materials: plan.materials, Compiler: plan.compiler, Cached: true}
	for _, j := range plan.jobs {
		b, ok, err := c.lookup(j)
		if err != nil || !ok {
			return Artifact{}, false, err
		}
		a.Binaries = append(a.Binaries, b)
	}
	return a, true, nil
}

// plan is what a component's binaries depend on.
type plan struct {
	jobs      []job
	env       map[string]string // for the go command
	materials []artifact.Material
	compiler  string // of C; "": none
}

func (c *Compiler) plan(ctx context.Context, comp images.Component, p Platform, fetching func([]string)) (plan, error) {
	sources, err := hashSources(comp.Dir)
	if err != nil {
		return plan{}, fmt.Errorf("component %s: %w", comp.Name, err)
	}
	settings := c.tools.settings(comp, c.fips, p)
	out := plan{env: settings}
	var compiler cc.Compiler
	var libs map[string]string
	if usesCgo(comp) {
		if compiler, err = cc.Find(ctx, p); err != nil {
			return plan{}, fmt.Errorf("component %s: %w", comp.Name, err)
		}
		out.compiler = compiler.ID
		// Where compiler and libraries are has no part in the key, and none in the result.
		out.env = maps.Clone(settings)
		out.env["CC"] = compiler.Path
		if c.sysroots == nil || !lock.Needed(comp) {
			if libs, err = libraries(ctx, compiler, comp); err != nil {
				return plan{}, err
			}
		} else {
			sys, err := c.sysroots.Sysroot(ctx, comp, p, fetching)
			if err != nil {
				return plan{}, err
			}
			libs = map[string]string{"sysroot": sys.ID}
			out.materials = sys.Materials
			useSysroot(out.env, sys)
		}
	}
	for _, b := range comp.Binaries {
		in := input{
			Scheme: scheme, Go: c.tools.version, Libraries: libs, Platform: p,
			Settings: settings, Sources: sources, Package: b.Package, Args: buildArgs(comp, b), Crypto: comp.Crypto,
		}
		if usesCgo(comp) {
			in.CC = compiler.ID
		}
		key, err := cache.Key(in)
		if err != nil {
			return plan{}, err
		}
		out.jobs = append(out.jobs, job{binary: b, key: key, args: in.Args})
	}
	return out, nil
}

// useSysroot makes the C compiler and pkg-config look into the sysroot alone.
func useSysroot(env map[string]string, sys debian.Sysroot) {
	env["CC"] += " " + strings.Join(sys.Flags(), " ")
	env["CGO_CFLAGS"] += " -ffile-prefix-map=" + sys.Dir + "=/sysroot"
	env["PKG_CONFIG_LIBDIR"] = sys.PkgConfig()
	env["PKG_CONFIG_PATH"] = ""
	// What the compiler finds by itself is not to be named, or it would be the host's.
	env["PKG_CONFIG_SYSTEM_INCLUDE_PATH"] = "/usr/include:/usr/include/" + sys.Triple
	env["PKG_CONFIG_SYSTEM_LIBRARY_PATH"] = "/usr/lib:/usr/lib/" + sys.Triple + ":/lib:/lib/" + sys.Triple
}

func buildArgs(comp images.Component, b images.Binary) []string {
	ld := append([]string{"-s", "-w"}, b.LDFlags...)
	if usesCgo(comp) {
		// A build ID would tell where C libraries and the compiler are on this machine.
		ld = append(ld, "-linkmode=external", "-extldflags=-static", "-buildid=", "-B=none")
	}
	// -s -w leaves debugging information out: not to make it first saves a tenth of the time.
	args := []string{"build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-gcflags=all=-dwarf=false", "-ldflags=" + strings.Join(ld, " ")}
	if len(b.Tags) > 0 {
		args = append(args, "-tags="+strings.Join(b.Tags, ","))
	}
	return args
}

// groups puts jobs of the same flags together, so that one go command uses all cores.
// Programs that the go command would give the same name are kept apart.
func groups(jobs []job) [][]job {
	var order []string
	by := map[string][]job{}
	same := map[string]int{}
	for _, j := range jobs {
		k := strings.Join(j.args, "\x00")
		named := k + "\x00" + images.CommandName(j.binary.Package)
		same[named]++
		k += fmt.Sprintf("\x00%d", same[named])
		if by[k] == nil {
			order = append(order, k)
		}
		by[k] = append(by[k], j)
	}
	var out [][]job
	for _, k := range order {
		out = append(out, by[k])
	}
	return out
}

func (c *Compiler) build(ctx context.Context, comp images.Component, p Platform, group []job, settings map[string]string, verbose io.Writer) ([]Binary, error) {
	work, err := c.cache.TempDir()
	if err != nil {
		return nil, fmt.Errorf("compiling %s: %w", comp.Name, err)
	}
	defer func() { _ = os.RemoveAll(work) }()
	// For several packages -o is a folder, in which the go command names the programs.
	args := append([]string{}, group[0].args...)
	if len(group) == 1 {
		args = append(args, "-o", filepath.Join(work, group[0].binary.Name))
	} else {
		args = append(args, "-o", work+string(filepath.Separator))
	}
	for _, j := range group {
		args = append(args, j.binary.Package)
	}
	cmd := exec.CommandContext(ctx, c.tools.goCmd, args...)
	cmd.Dir = comp.Dir
	cmd.Env = c.tools.environ(settings)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if verbose != nil {
		cmd.Stdout = io.MultiWriter(&said, verbose)
		cmd.Stderr = cmd.Stdout
	}
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("compiling %s: %w", comp.Name, ctx.Err())
		}
		return nil, explain(comp, err, said.Bytes())
	}
	var out []Binary
	for _, j := range group {
		from := filepath.Join(work, j.binary.Name)
		if len(group) > 1 {
			from = filepath.Join(work, images.CommandName(j.binary.Package))
		}
		b, err := c.keep(comp, p, j, from)
		if err != nil {
			return nil, err
		}
		out = append(out, b)
	}
	return out, nil
}

// keep checks a binary and puts it into the cache.
func (c *Compiler) keep(comp images.Component, p Platform, j job, from string) (Binary, error) {
	crypto, goVersion, err := check(from, comp, c.fips, p)
	if err != nil {
		return Binary{}, fmt.Errorf("component %s: %w", comp.Name, err)
	}
	dir, _, err := c.cache.Fill(cacheKind, j.key, func(dir string) error {
		to := filepath.Join(dir, j.binary.Name)
		if err := os.Rename(from, to); err != nil {
			return fmt.Errorf("keeping %s: %w", j.binary.Name, err)
		}
		if err := os.Chmod(to, 0o755); err != nil {
			return fmt.Errorf("keeping %s: %w", j.binary.Name, err)
		}
		sum, err := cache.Sum(to)
		if err != nil {
			return err
		}
		st, err := os.Stat(to)
		if err != nil {
			return fmt.Errorf("keeping %s: %w", j.binary.Name, err)
		}
		b := Binary{Name: j.binary.Name, SHA256: sum, Size: st.Size(), Crypto: crypto, Go: goVersion}
		data, err := json.Marshal(b)
		if err != nil {
			return fmt.Errorf("keeping %s: %w", j.binary.Name, err)
		}
		return os.WriteFile(filepath.Join(dir, infoFile), data, 0o644)
	})
	if err != nil {
		return Binary{}, err
	}
	return readEntry(dir, j.binary.Name)
}

// lookup finds a binary in the cache. An entry whose file is gone or has another size
// was damaged by somebody: it is dropped and built again. (What a layer is made of is
// hashed again while it is read.)
func (c *Compiler) lookup(j job) (Binary, bool, error) {
	dir, ok := c.cache.Lookup(cacheKind, j.key)
	if !ok {
		return Binary{}, false, nil
	}
	b, err := readEntry(dir, j.binary.Name)
	if err != nil {
		return Binary{}, false, c.cache.Drop(cacheKind, j.key)
	}
	return b, true, nil
}

func readEntry(dir, binary string) (Binary, error) {
	data, err := os.ReadFile(filepath.Join(dir, infoFile))
	if err != nil {
		return Binary{}, fmt.Errorf("reading cache entry: %w", err)
	}
	var b Binary
	if err := json.Unmarshal(data, &b); err != nil {
		return Binary{}, fmt.Errorf("reading cache entry %s: %w", dir, err)
	}
	b.Path = filepath.Join(dir, binary)
	st, err := os.Stat(b.Path)
	if err != nil {
		return Binary{}, fmt.Errorf("reading cache entry: %w", err)
	}
	if b.Name != binary || st.Size() != b.Size {
		return Binary{}, fmt.Errorf("cache entry %s is damaged", dir)
	}
	return b, nil
}

// hashSources hashes what a wrapper folder gives to the go command: go.mod, go.sum and its
// own sources. Files that go into images beside the programs count only where a source
// embeds files.
func hashSources(dir string) (map[string]string, error) {
	sums, others := map[string]string{}, map[string]string{}
	embeds := false
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		switch {
		case d.IsDir(), rel == "image.yaml", rel == lock.FileName, strings.HasPrefix(rel, "Dockerfile"):
			return nil
		case strings.HasSuffix(rel, "_test.go"):
			return nil
		case d.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			others[filepath.ToSlash(rel)] = "link to " + target
			return err
		}
		to := others
		if rel == "go.mod" || rel == "go.sum" || slices.Contains(sourceFiles, filepath.Ext(rel)) {
			to = sums
		}
		if filepath.Ext(rel) == ".go" && !embeds {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			embeds = bytes.Contains(data, []byte("\n//go:embed "))
		}
		to[filepath.ToSlash(rel)], err = cache.Sum(path)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading sources: %w", err)
	}
	if embeds {
		maps.Copy(sums, others)
	}
	return sums, nil
}

// sourceFiles are the endings of what the go command compiles.
var sourceFiles = []string{".go", ".s", ".S", ".c", ".h", ".syso"}
