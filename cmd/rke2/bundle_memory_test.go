package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// mostMemory runs a program and returns the most memory of its own that it was seen with,
// in bytes: RssAnon of proc_pid_status(5). Pages of the program's file are not counted;
// they are the page cache's, and how many are mapped is the kernel's choice.
func mostMemory(t *testing.T, program string, args ...string) int64 {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	status := filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid), "status")
	var most int64
	for {
		select {
		case err := <-ended:
			if err != nil {
				t.Fatalf("%v\n%s", err, said.String())
			}
			return most
		case <-time.After(2 * time.Millisecond):
		}
		text, err := os.ReadFile(status)
		if err != nil {
			continue // it has just ended
		}
		_, after, ok := strings.Cut(string(text), "RssAnon:")
		if !ok {
			continue // a zombie has none
		}
		kib, err := strconv.ParseInt(strings.TrimSpace(strings.SplitN(after, "kB", 2)[0]), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		most = max(most, kib<<10)
	}
}

// The program that is shipped, on the bundle that is shipped: what it links in besides
// bundles does not add up to more than is promised.
func TestMemoryOfTheProgram(t *testing.T) {
	dist := os.Getenv("RKE2_DIST")
	program, bundle := filepath.Join(dist, "rke2"), ""
	if found, err := filepath.Glob(filepath.Join(dist, "rke2-images-core.linux-amd64.tar")); err == nil && len(found) == 1 {
		bundle = found[0]
	}
	if _, err := os.Stat(program); dist == "" || bundle == "" || errors.Is(err, os.ErrNotExist) {
		if os.Getenv("CI") == "true" {
			t.Fatal("no products to measure: run make airgap")
		}
		t.Skip("no products to measure: run make airgap")
	}
	runtimeImage := ""
	list, err := os.ReadFile(strings.TrimSuffix(bundle, "tar") + "txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(list)) {
		if strings.Contains(line, "rke2-runtime") {
			runtimeImage = strings.TrimSpace(line)
		}
	}
	const limit = 100_000_000
	for _, c := range []struct {
		name string
		args []string
	}{
		{"verify", []string{"bundle", "verify", bundle}},
		{"verify contents", []string{"bundle", "verify", "--contents", bundle}},
		{"inspect", []string{"bundle", "inspect", bundle}},
		{"extract", []string{"bundle", "extract", bundle, "--ref", runtimeImage, "--to", filepath.Join(t.TempDir(), "root")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			most := mostMemory(t, program, c.args...)
			t.Logf("%.1f MB at most", float64(most)/1e6)
			if most < 1<<20 || most > limit {
				t.Errorf("%d bytes at most, want at most %d", most, limit)
			}
		})
	}
}
