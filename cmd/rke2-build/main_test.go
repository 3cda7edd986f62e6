package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rancher/rke2/images"
)

// invoke runs the command line as main does.
func invoke(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, msg bytes.Buffer
	code = run(context.Background(), args, &out, &msg)
	return code, out.String(), msg.String()
}

// project is a tree whose one component compiles in a moment.
func project(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range map[string]string{
		"images/product.yaml":    "version-of: tiny\nrelease: rke2r1\nfips140: v1.0.0\nregistry: docker.io\nrepo: rancher\n",
		"images/tiny/go.mod":     "module example.com/tiny\n\ngo 1.25.0\n\ntool example.com/tiny\n",
		"images/tiny/main.go":    "package main\n\nfunc main() { println(\"tiny\") }\n",
		"images/tiny/image.yaml": "description: a tiny program\nversion: v1.2.3\nimage:\n  name: tiny\n  role: tiny\n  sets: [core]\n",
		"images/tiny/Dockerfile": "FROM scratch\nCOPY --from=tiny / /bin/\n",
	} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("RKE2_BUILD_CACHE", filepath.Join(root, "cache"))
	for _, v := range []string{"REGISTRY", "REPO", "SOURCE_DATE_EPOCH", "COSIGN_KEY"} {
		t.Setenv(v, "")
	}
	// Commands find the declarations from a folder below, too.
	below := filepath.Join(root, "images", "tiny")
	t.Chdir(below)
	return root
}

func TestAll(t *testing.T) {
	root := project(t)
	t.Setenv("REGISTRY", "registry.example.com")
	t.Setenv("COSIGN_PASSWORD", "secret")
	code, out, msg := invoke(t, "list")
	if code != 0 || !strings.Contains(out, "not built") || !strings.Contains(out, "v1.2.3") {
		t.Fatalf("list: %d\n%s%s", code, out, msg)
	}
	if code, out, msg = invoke(t, "keygen", filepath.Join(root, "release")); code != 0 || !strings.Contains(out, "release.key") {
		t.Fatalf("keygen: %d\n%s%s", code, out, msg)
	}
	code, out, msg = invoke(t, "all", "--key", filepath.Join(root, "release.key"), "--repo", "flag/wins")
	if code != 0 || !strings.Contains(out, "registry.example.com/flag/wins/tiny:v1.2.3-rke2r1") {
		t.Fatalf("all: %d\n%s%s", code, out, msg)
	}
	for _, want := range []string{"compile  tiny                 v1.2.3             making tiny", " built ", " signed"} {
		if !strings.Contains(msg, want) {
			t.Errorf("no %q in\n%s", want, msg)
		}
	}
	data, err := os.ReadFile(filepath.Join(root, "dist", "release.json"))
	if err != nil {
		t.Fatal(err)
	}
	r, err := images.ParseRelease(data)
	if err != nil || r.Development || r.Registry != "registry.example.com" || r.Repo != "flag/wins" {
		t.Errorf("%+v, %v", r, err)
	}
	if code, _, msg = invoke(t, "all", "--key", filepath.Join(root, "release.key"), "--repo", "flag/wins"); code != 0 || !strings.Contains(msg, " cached ") || !strings.Contains(msg, " kept") {
		t.Errorf("again: %d\n%s", code, msg)
	}
	code, out, msg = invoke(t, "list", "-o", "json")
	var rows []struct {
		Component, Version, Module, Crypto string
		Built                              bool
		Size                               int64
		Binaries                           []string
	}
	if err := json.Unmarshal([]byte(out), &rows); err != nil || code != 0 {
		t.Fatalf("list -o json: %d, %v\n%s%s", code, err, out, msg)
	}
	if len(rows) != 1 || rows[0].Component != "tiny" || !rows[0].Built || rows[0].Size == 0 || !strings.HasPrefix(rows[0].Crypto, "fips140 v1.0.0-") || len(rows[0].Binaries) != 1 {
		t.Errorf("rows %+v", rows)
	}
}

// Without a key it is a development build, and says so.
func TestDevelopmentKey(t *testing.T) {
	root := project(t)
	code, _, msg := invoke(t, "all")
	if code != 0 || !strings.Contains(msg, "signing with the development key") {
		t.Fatalf("all: %d\n%s", code, msg)
	}
	data, err := os.ReadFile(filepath.Join(root, "dist", "release.json"))
	if err != nil {
		t.Fatal(err)
	}
	if r, err := images.ParseRelease(data); err != nil || !r.Development {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestExitCodes(t *testing.T) {
	root := project(t)
	t.Setenv("COSIGN_PASSWORD", "")
	for _, c := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"help", []string{"--help"}, 0, "Examples:"},
		{"nothing", nil, 0, "Examples:"},
		{"completion", []string{"completion", "bash"}, 0, "rke2-build"},
		{"unknown command", []string{"complie"}, exitUsage, `unknown command "complie"`},
		{"unknown flag", []string{"list", "--frob"}, exitUsage, "unknown flag"},
		{"too many arguments", []string{"sign", "x"}, exitUsage, "unknown command"},
		{"output", []string{"list", "-o", "xml"}, exitUsage, "neither table nor json"},
		{"epoch", []string{"image", "--source-date-epoch", "now"}, exitUsage, "not a number of seconds"},
		{"unknown component", []string{"compile", "tinny"}, exitUsage, "known are: tiny"},
		{"unknown image", []string{"image", "tinny"}, exitUsage, "known are: tiny"},
		{"bad registry", []string{"image", "--registry", "a b"}, exitFailure, "naming image"},
		{"no key file", []string{"all", "--key", filepath.Join(root, "no.key")}, exitFailure, "no such file"},
		{"nothing to sign", []string{"sign"}, exitFailure, "make them with rke2-build image"},
		{"nothing to release", []string{"release"}, exitFailure, "run rke2-build image"},
		{"declarations elsewhere", []string{"list", "--images", filepath.Join(root, "nowhere")}, exitFailure, "no such file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, out, msg := invoke(t, c.args...)
			if code != c.code || !strings.Contains(out+msg, c.want) {
				t.Errorf("exit %d, want %d with %q:\n%s%s", code, c.code, c.want, out, msg)
			}
		})
	}
	t.Chdir(t.TempDir())
	if code, _, msg := invoke(t, "list"); code != exitFailure || !strings.Contains(msg, "--images") {
		t.Errorf("outside of a project: %d %s", code, msg)
	}
}

func TestCompletion(t *testing.T) {
	project(t)
	for _, cmd := range []string{"compile", "image"} {
		if code, out, msg := invoke(t, "__complete", cmd, "ti"); code != 0 || !strings.HasPrefix(out, "tiny") {
			t.Errorf("%s: %d\n%s%s", cmd, code, out, msg)
		}
	}
}

// Every command has help with an example.
func TestHelp(t *testing.T) {
	for _, c := range newRoot().Commands() {
		if c.Name() == "completion" || c.Name() == "help" {
			continue
		}
		if c.Short == "" || c.Long == "" || c.Example == "" {
			t.Errorf("%s: short %q, long %q, example %q", c.Name(), c.Short, c.Long, c.Example)
		}
	}
}
