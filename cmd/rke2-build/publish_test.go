package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rancher/rke2/tests/distribution"
)

// asMain makes this test program be rke2-build.
const asMain = "RKE2_BUILD_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asMain) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// rke2Build is the command as a process of its own, with docker login's credentials for
// the addresses.
func rke2Build(t *testing.T, addresses []string, args ...string) (cmd *exec.Cmd, out, errs *bytes.Buffer) {
	t.Helper()
	cmd = exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), asMain+"=1", "DOCKER_CONFIG="+distribution.DockerConfig(t, addresses...))
	out, errs = &bytes.Buffer{}, &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = out, errs
	return cmd, out, errs
}

// published is publish's JSON.
type published struct {
	Bytes, Sent int64
	Images      []struct {
		Source, Reference, Digest, Outcome string
		Signatures, Attestations           int
		Blobs                              struct{ Sent, Mounted, Present int }
	}
}

// A push that is killed half-way leaves no tag that leads nowhere, and the next one
// completes it without sending again what had arrived.
func TestPublishKilled(t *testing.T) {
	s := distribution.Start(t, distribution.Options{})
	slow := distribution.NewProxy(t, s, 4<<20)
	dir := filepath.Join(t.TempDir(), "oci")
	refs := []string{"docker.io/rancher/one:v1", "docker.io/rancher/two:v1", "docker.io/rancher/three:v1"}
	var images []distribution.Image
	for i, r := range refs {
		images = append(images, distribution.Image{
			Ref: r, Platforms: []string{"amd64", "arm64"},
			Layers: [][]byte{distribution.Random(100, 1<<20), distribution.Random(byte(i), 2<<20), distribution.Random(byte(i+10), 1<<20)},
		})
	}
	distribution.WriteLayout(t, dir, images...)
	const total = 10 << 20 // the first layer is shared
	for _, part := range []int64{total / 5, total * 3 / 5, total * 9 / 10} {
		cmd, _, errs := rke2Build(t, []string{slow.Addr}, "publish", slow.Addr, "--layout", dir, "--ca-file", s.CAFile, "--jobs", "2")
		slow.KillAt(t, s, cmd, part, errs)
		for _, r := range refs {
			s.Whole(t, strings.TrimPrefix(strings.TrimSuffix(r, ":v1"), "docker.io/"), "v1", false)
		}
	}
	before := s.Stored(t)
	if before == 0 {
		t.Error("nothing had arrived: this tested little")
	}
	cmd, out, errs := rke2Build(t, []string{s.Addr}, "publish", s.Addr, "--layout", dir, "--ca-file", s.CAFile, "-o", "json")
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, errs)
	}
	var res published
	if err := json.Unmarshal(out.Bytes(), &res); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if res.Sent > total-before+64<<10 {
		t.Errorf("%d bytes were sent though %d of %d were there", res.Sent, before, total)
	}
	for _, r := range refs {
		s.Whole(t, strings.TrimPrefix(strings.TrimSuffix(r, ":v1"), "docker.io/"), "v1", true)
	}
}

func TestPublishCommand(t *testing.T) {
	s := distribution.Start(t, distribution.Options{})
	dir := filepath.Join(t.TempDir(), "oci")
	distribution.WriteLayout(t, dir, distribution.Image{Ref: "docker.io/rancher/one:v1", Platforms: []string{"amd64"}, Layers: [][]byte{{1, 2, 3}}})
	password := func(cmd *exec.Cmd) { cmd.Stdin = strings.NewReader(distribution.Password + "\n") }
	for _, c := range []struct {
		name  string
		args  []string
		with  func(*exec.Cmd)
		code  int
		wants []string
	}{
		{"dry run", []string{s.Addr, "--dry-run"}, nil, 0, []string{"would push", s.Addr + "/rancher/one:v1"}},
		{"push", []string{s.Addr, "one", "-u", distribution.User, "--password-stdin"}, password, 0, []string{"signatures ", " sent ", "pushed"}},
		{"again", []string{s.Addr}, nil, 0, []string{"tag  ", " present "}},
		{"no registry", nil, nil, exitUsage, []string{"requires at least 1 arg"}},
		{"scheme", []string{"https://x"}, nil, exitUsage, []string{"without https://"}},
		{"user alone", []string{s.Addr, "-u", "x"}, nil, exitUsage, []string{"needed together"}},
		{"no password", []string{s.Addr, "-u", "x", "--password-stdin"}, nil, exitUsage, []string{"standard input has no password"}},
		{"certificate alone", []string{s.Addr, "--client-cert", "x"}, nil, exitFailure, []string{"needed together"}},
		{"no such image", []string{s.Addr, "two"}, nil, exitFailure, []string{"it has: one"}},
		{"output", []string{s.Addr, "-o", "xml"}, nil, exitUsage, []string{"neither table nor json"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd, out, errs := rke2Build(t, []string{s.Addr}, append([]string{"publish", "--layout", dir, "--ca-file", s.CAFile}, c.args...)...)
			if c.with != nil {
				c.with(cmd)
			}
			_ = cmd.Run() // its exit code is looked at
			if got := cmd.ProcessState.ExitCode(); got != c.code {
				t.Errorf("exit %d, want %d", got, c.code)
			}
			for _, w := range c.wants {
				if !strings.Contains(out.String()+errs.String(), w) {
					t.Errorf("no %q in\n%s%s", w, out, errs)
				}
			}
		})
	}
}
