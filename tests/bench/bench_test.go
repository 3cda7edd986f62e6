package bench

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rancher/rke2/build/compile"
)

// side is one of two that are compared: it does the work, in a folder of its own, and
// gives the size of the result in bytes, or 0 where that says nothing.
type side func(dir string) int64

// cost is what something took.
type cost struct {
	clock, cpu time.Duration
	size       int64
}

func (c cost) plus(d cost) cost { return cost{c.clock + d.clock, c.cpu + d.cpu, d.size} }

// measure does something in a new folder, which it removes.
func measure(b *testing.B, do side) cost {
	b.Helper()
	dir, err := os.MkdirTemp(b.TempDir(), "run-")
	if err != nil {
		b.Fatal(err)
	}
	// What the run before it wrote is not to be paid here.
	syscall.Sync()
	before, start := cpu(b), time.Now()
	size := do(dir)
	c := cost{time.Since(start), cpu(b) - before, size}
	if err := removeAll(dir); err != nil {
		b.Fatal(err)
	}
	return c
}

// cpu is what this process and those that it waited for have used.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var sum time.Duration
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var u syscall.Rusage
		if err := syscall.Getrusage(who, &u); err != nil {
			b.Fatal(err)
		}
		sum += time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	return sum
}

// versus runs both sides, each first as often as the other, and reports how they compare.
func versus(b *testing.B, ours, peer side) {
	b.Helper()
	var a, p cost
	for i := 0; b.Loop(); i++ {
		if i%2 == 0 {
			a = a.plus(measure(b, ours))
			p = p.plus(measure(b, peer))
		} else {
			p = p.plus(measure(b, peer))
			a = a.plus(measure(b, ours))
		}
	}
	b.ReportMetric(a.clock.Seconds()/p.clock.Seconds(), "ratio")
	b.ReportMetric(a.cpu.Seconds()/p.cpu.Seconds(), "cpu-ratio")
	b.ReportMetric(a.clock.Seconds()/float64(b.N), "ours-s")
	b.ReportMetric(p.clock.Seconds()/float64(b.N), "peer-s")
	if a.size > 0 && p.size > 0 {
		b.ReportMetric(float64(a.size)/float64(p.size), "size-ratio")
	}
	b.ReportMetric(0, "ns/op") // both sides together: of no meaning
}

// bytesIn is the size of all files of a folder.
func bytesIn(b *testing.B, dir string) (n int64) {
	b.Helper()
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if err == nil {
			n += info.Size()
		}
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	return n
}

// removeAll removes folders that can't be written to as well: Go's module cache is one.
func removeAll(dir string) error {
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			return os.Chmod(p, 0o700)
		}
		return err
	})
	if err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

func run(b *testing.B, dir string, env []string, name string, args ...string) []byte {
	b.Helper()
	cmd := exec.CommandContext(b.Context(), name, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		b.Fatalf("%v: %v\n%s%s", cmd.Args, err, out.Bytes(), said.Bytes())
	}
	return out.Bytes()
}

// installed finds a peer, or says which Debian package it is in.
func installed(b *testing.B, name string) string {
	b.Helper()
	p, err := exec.LookPath(name)
	if err != nil {
		b.Fatalf("%s is not here to measure against: apt-get install %s", name, name)
	}
	return p
}

// crane is built from its pinned module.
func crane(b *testing.B) string {
	b.Helper()
	dir := filepath.Join(root(b), "airgap", "testdata", "tools", "crane")
	return strings.TrimSpace(string(run(b, dir, []string{"GOFLAGS=-trimpath", "CGO_ENABLED=0", "GOFIPS140=off"}, "go", "tool", "-n", "crane")))
}

func root(b *testing.B) string {
	b.Helper()
	dir, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		b.Fatal(err)
	}
	return dir
}

// program is the rke2-build that make airgap made.
func program(b *testing.B) string {
	b.Helper()
	dist := os.Getenv("RKE2_DIST")
	if dist == "" {
		dist = filepath.Join(root(b), "dist")
	}
	p := filepath.Join(dist, "rke2-build")
	if _, err := os.Stat(p); err != nil {
		b.Fatalf("run make airgap first: %v", err)
	}
	return p
}

// binaries are a component's, from the build cache.
func binaries(b *testing.B, component string) []compile.Binary {
	b.Helper()
	var made []struct{ Binaries []compile.Binary }
	out := run(b, root(b), nil, program(b), "compile", component, "-o", "json")
	if err := json.Unmarshal(out, &made); err != nil || len(made) != 1 || len(made[0].Binaries) == 0 {
		b.Fatalf("rke2-build compile %s said %s, %v", component, out, err)
	}
	return made[0].Binaries
}
