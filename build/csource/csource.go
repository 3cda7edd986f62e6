// Package csource builds static programs from a Debian source package: the files that
// the lock pins, Debian's patches, the declared commands, and a C compiler that sees
// locked headers and libraries only. The result is kept by what it was made from, and
// asserted from the program itself: ELF, of the right machine, static.
package csource

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"text/template"
	"time"

	"github.com/rancher/rke2/build/artifact"
	"github.com/rancher/rke2/build/cache"
	"github.com/rancher/rke2/build/cc"
	"github.com/rancher/rke2/build/debian"
	"github.com/rancher/rke2/build/layer"
	"github.com/rancher/rke2/build/lock"
	"github.com/rancher/rke2/images"
)

const (
	cacheKind = "csource"
	// scheme is part of every key: raise it when this package builds differently.
	scheme = 1
	// where a program finds itself built, whatever the folder is called.
	mappedTo = "/usr/src"
)

// Maker builds components of kind source.
type Maker struct {
	cache   *cache.Cache
	archive *debian.Archive
	mirrors images.Mirrors
	verbose io.Writer
}

var _ artifact.Maker = (*Maker)(nil)

// New makes a maker that fetches from an archive. verbose, which may be nil, gets what
// the commands say.
func New(c *cache.Cache, a *debian.Archive, m images.Mirrors, verbose io.Writer) *Maker {
	return &Maker{cache: c, archive: a, mirrors: m, verbose: verbose}
}

// input is everything that the programs depend on.
type input struct {
	Scheme   int
	Files    []lock.SourceFile
	Sysroot  string
	Compiler string
	Platform artifact.Platform
	Native   bool // configure may run what it compiled
	Build    [][]string
	Binaries map[string]string
}

// program is what the cache knows of a result.
type program struct {
	Name   string
	SHA256 string
	Size   int64
}

const infoFile = "info.json"

// Make gives a context for each declared program.
func (m *Maker) Make(ctx context.Context, c images.Component, p artifact.Platform, building func(what []string)) (artifact.Artifact, error) {
	start := time.Now()
	a, err := m.make(ctx, c, p, building)
	if err != nil {
		return a, err
	}
	a.Elapsed = time.Since(start)
	return a, nil
}

func (m *Maker) make(ctx context.Context, c images.Component, p artifact.Platform, building func(what []string)) (artifact.Artifact, error) {
	l, err := lock.Read(c, m.mirrors)
	if err != nil {
		return artifact.Artifact{}, err
	}
	compiler, err := cc.Find(ctx, p)
	if err != nil {
		return artifact.Artifact{}, fmt.Errorf("component %s: %w", c.Name, err)
	}
	root, err := m.archive.Sysroot(ctx, c, p, building)
	if err != nil {
		return artifact.Artifact{}, err
	}
	key, err := cache.Key(input{
		Scheme: scheme, Files: l.Source.Files, Sysroot: root.ID, Compiler: compiler.ID, Platform: p,
		Native: native(p), Build: c.Source.Build, Binaries: c.Source.Binaries,
	})
	if err != nil {
		return artifact.Artifact{}, err
	}
	dir, hit, err := m.cache.Fill(cacheKind, key, func(dir string) error {
		if building != nil {
			building([]string{l.Source.Name + " " + l.Source.Version})
		}
		return m.build(ctx, c, *l.Source, p, compiler, root, dir)
	})
	if err != nil {
		return artifact.Artifact{}, fmt.Errorf("component %s (%s): %w", c.Name, p, err)
	}
	a, err := m.artifact(c, p, *l.Source, dir)
	a.Compiler = compiler.ID
	if err != nil {
		if dropErr := m.cache.Drop(cacheKind, key); dropErr != nil {
			return a, dropErr
		}
		return a, fmt.Errorf("component %s was damaged in the build cache and is removed from it; run the command again: %w", c.Name, err)
	}
	a.Cached = hit
	a.Materials = artifact.SortMaterials(append(debian.SourceMaterials(*l.Source, m.mirrors.Suite), root.Materials...))
	return a, nil
}

func (m *Maker) artifact(c images.Component, p artifact.Platform, s lock.Source, dir string) (artifact.Artifact, error) {
	a := artifact.Artifact{Component: c.Name, Version: s.Version, Platform: p, Contexts: map[string][]layer.File{}}
	data, err := os.ReadFile(filepath.Join(dir, infoFile))
	if err != nil {
		return a, err
	}
	var programs []program
	if err := json.Unmarshal(data, &programs); err != nil {
		return a, err
	}
	for _, b := range programs {
		file := filepath.Join(dir, b.Name)
		if st, err := os.Stat(file); err != nil || st.Size() != b.Size {
			return a, fmt.Errorf("%s is not what was built", file)
		}
		a.Contexts[b.Name] = []layer.File{{
			Path: b.Name, Mode: 0o755, Source: file, SHA256: b.SHA256, Package: debian.SourcePURL(s, m.mirrors.Suite),
		}}
		a.Size += b.Size
	}
	return a, nil
}

func native(p artifact.Platform) bool { return p.OS == runtime.GOOS && p.Arch == runtime.GOARCH }

// build fills dir with the programs.
func (m *Maker) build(ctx context.Context, c images.Component, s lock.Source, p artifact.Platform, compiler cc.Compiler, root debian.Sysroot, dir string) error {
	var files []fetched
	for _, f := range s.Files {
		got, err := m.archive.SourceFile(ctx, s, f)
		if err != nil {
			return err
		}
		files = append(files, fetched{name: path.Base(f.Path), path: got})
	}
	work, err := m.cache.TempDir()
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(work) }() // Trim takes what stays
	tree := filepath.Join(work, s.Name)
	if err := os.Mkdir(tree, 0o755); err != nil {
		return fmt.Errorf("building %s: %w", s.Name, err)
	}
	epoch := time.Unix(0, 0)
	if err := unpackSource(ctx, s, files, tree, epoch); err != nil {
		return err
	}
	cmds, err := commands(c, p, compiler, root)
	if err != nil {
		return err
	}
	env := environment(settings(compiler, root, tree, epoch))
	for _, args := range cmds {
		if err := m.run(ctx, tree, env, args); err != nil {
			return err
		}
	}
	return m.keep(c, p, tree, dir)
}

// commands fills in the declared commands' templates: Host and Build are Debian's names
// of the platform that is built for and of this machine.
func commands(c images.Component, p artifact.Platform, compiler cc.Compiler, root debian.Sysroot) ([][]string, error) {
	here, err := cc.Triple(artifact.Platform{OS: runtime.GOOS, Arch: runtime.GOARCH})
	if err != nil {
		return nil, err
	}
	values := map[string]string{
		"Host": compiler.Triple, "Build": here, "Arch": p.Arch,
		"Jobs": strconv.Itoa(runtime.GOMAXPROCS(0)),
		"CC":   compilerCommand(compiler, root),
	}
	var out [][]string
	for _, args := range c.Source.Build {
		var filled []string
		for _, a := range args {
			t, err := template.New("").Option("missingkey=error").Parse(a)
			if err != nil {
				return nil, fmt.Errorf("%s: build: %w", filepath.Join(c.Dir, "image.yaml"), err)
			}
			var b strings.Builder
			if err := t.Execute(&b, values); err != nil {
				return nil, fmt.Errorf("%s: build: %w", filepath.Join(c.Dir, "image.yaml"), err)
			}
			filled = append(filled, b.String())
		}
		out = append(out, filled)
	}
	return out, nil
}

func compilerCommand(compiler cc.Compiler, root debian.Sysroot) string {
	return strings.Join(append([]string{compiler.Path}, root.Flags()...), " ")
}

// settings are the variables that builds see besides PATH.
func settings(compiler cc.Compiler, root debian.Sysroot, tree string, epoch time.Time) map[string]string {
	return map[string]string{
		"CC":                compilerCommand(compiler, root),
		"AR":                compiler.Triple + "-ar",
		"RANLIB":            compiler.Triple + "-ranlib",
		"NM":                compiler.Triple + "-nm",
		"STRIP":             compiler.Triple + "-strip",
		"CFLAGS":            "-O2 -static -ffile-prefix-map=" + tree + "=" + mappedTo + " -ffile-prefix-map=" + root.Dir + "=",
		"LDFLAGS":           "-static -s -Wl,--build-id=none",
		"PKG_CONFIG_LIBDIR": root.PkgConfig(),
		"SOURCE_DATE_EPOCH": strconv.FormatInt(epoch.Unix(), 10),
	}
}

// environment is all that a command of a build sees.
func environment(settings map[string]string) []string {
	env := []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC", "HOME=/nonexistent", "SHELL=/bin/sh"}
	for k, v := range settings {
		env = append(env, k+"="+v)
	}
	sort.Strings(env)
	return env
}

// run runs a command under a fixed umask. That is a property of the whole process, so it
// is not ours to change: sh sets it and gives way to the command.
func (m *Maker) run(ctx context.Context, dir string, env, args []string) error {
	var said bytes.Buffer
	cmd := exec.CommandContext(ctx, "/bin/sh", append([]string{"-c", `umask 022 && exec "$@"`, "sh"}, args...)...)
	cmd.Dir = dir
	cmd.Env = env
	cmd.Stdout = &said
	if m.verbose != nil {
		cmd.Stdout = io.MultiWriter(&said, m.verbose)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("running %s: %w", args[0], ctx.Err())
		}
		return fmt.Errorf("running %s: %w:\n%s", strings.Join(args, " "), err, tail(said.Bytes()))
	}
	return nil
}

// keep checks the programs and moves them into dir.
func (m *Maker) keep(c images.Component, p artifact.Platform, tree, dir string) error {
	var programs []program
	for name, from := range c.Source.Binaries {
		if !filepath.IsLocal(from) || name != path.Base(name) {
			return fmt.Errorf("binary %s: path %q leads out of the source tree", name, from)
		}
		built := filepath.Join(tree, from)
		if err := check(built, p); err != nil {
			return fmt.Errorf("binary %s: %w", name, err)
		}
		data, err := os.ReadFile(built)
		if err != nil {
			return fmt.Errorf("binary %s: %w", name, err)
		}
		for _, trace := range []string{tree, m.cache.Dir()} {
			if bytes.Contains(data, []byte(trace)) {
				return fmt.Errorf("binary %s has the folder %s in it, so it would differ elsewhere: the build records its flags or paths", name, trace)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o755); err != nil {
			return fmt.Errorf("keeping %s: %w", name, err)
		}
		sum := sha256.Sum256(data)
		programs = append(programs, program{Name: name, SHA256: hex.EncodeToString(sum[:]), Size: int64(len(data))})
	}
	sort.Slice(programs, func(i, j int) bool { return programs[i].Name < programs[j].Name })
	data, err := json.Marshal(programs)
	if err != nil {
		return fmt.Errorf("keeping %s: %w", c.Name, err)
	}
	return os.WriteFile(filepath.Join(dir, infoFile), data, 0o644)
}

var machines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}

// check asserts what is promised of a program.
func check(file string, p artifact.Platform) error {
	f, err := elf.Open(file)
	if err != nil {
		return fmt.Errorf("the build made no program: %w", err)
	}
	defer f.Close()
	if f.Machine != machines[p.Arch] || (f.Type != elf.ET_EXEC && f.Type != elf.ET_DYN) {
		return fmt.Errorf("it is %s of %s, not a program for %s", f.Type, f.Machine, p)
	}
	for _, prog := range f.Progs {
		if prog.Type == elf.PT_INTERP {
			return fmt.Errorf("it is not static: it asks for a loader (PT_INTERP)")
		}
	}
	libs, err := f.ImportedLibraries()
	if err != nil {
		return fmt.Errorf("reading it: %w", err)
	}
	if len(libs) > 0 {
		return fmt.Errorf("it is not static: it needs %s", strings.Join(libs, ", "))
	}
	return nil
}

// tail keeps the end of a command's output, where the reason is.
func tail(b []byte) string {
	const most = 4 << 10
	b = bytes.TrimSpace(b)
	if len(b) > most {
		b = append([]byte("… "), b[len(b)-most:]...)
	}
	return string(b)
}
