package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rancher/rke2/build/buildkit"
)

func TestBuildxArgs(t *testing.T) {
	root := project(t)
	code, out, msg := invoke(t, "buildx-args", "tiny", "--platform", "linux/amd64")
	if code != 0 || !strings.HasPrefix(out, "docker buildx build \\\n  --file "+root+"/dist/buildx/tiny.linux-amd64/Dockerfile \\\n") || !strings.Contains(out, "--build-context tiny="+root+"/dist/buildx/tiny.linux-amd64/contexts/tiny \\\n") {
		t.Fatalf("%d\n%s%s", code, out, msg)
	}
	// The next export replaces it.
	export := filepath.Join(root, "elsewhere")
	for range 2 {
		code, out, msg = invoke(t, "buildx-args", "tiny", "--platform", "linux/amd64", "--export", export, "-o", "json")
		var x buildkit.Buildx
		if err := json.Unmarshal([]byte(out), &x); code != 0 || err != nil {
			t.Fatalf("%d, %v\n%s%s", code, err, out, msg)
		}
		if info, err := os.Stat(filepath.Join(x.Contexts["tiny"], "tiny")); err != nil || info.Mode() != 0o755 {
			t.Errorf("%v, %v", info, err)
		}
		if x.Tag != "docker.io/rancher/tiny:v1.2.3-rke2r1" || x.Context != filepath.Join(export, "context") {
			t.Errorf("%+v", x)
		}
	}
	// RUN is refused by the daemonless builder only.
	dockerfile := filepath.Join(root, "images", "tiny", "Dockerfile")
	if err := os.WriteFile(dockerfile, []byte("FROM tiny\nRUN [\"/tiny\"]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if code, out, msg = invoke(t, "buildx-args", "tiny", "--platform", "linux/amd64"); code != 0 {
		t.Errorf("%d\n%s%s", code, out, msg)
	}
	if code, _, msg = invoke(t, "image", "tiny"); code != exitFailure || !strings.Contains(msg, dockerfile+":2: ") {
		t.Errorf("%d\n%s", code, msg)
	}
}

func TestBuilderFlags(t *testing.T) {
	root := project(t)
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"image", "--builder", "kaniko"}, exitUsage, `--builder "kaniko" is neither daemonless nor buildkit`},
		{[]string{"image", "--builder", "buildkit", "--buildkit-addr", "unix:///nowhere/buildkitd.sock"}, exitFailure, "connecting to BuildKit at unix:///nowhere/buildkitd.sock"},
		{[]string{"buildx-args"}, exitUsage, "accepts 1 arg"},
		{[]string{"buildx-args", "nothing"}, exitUsage, `there is no image "nothing"`},
		{[]string{"buildx-args", "tiny", "--platform", "linux/amd64,linux/arm64"}, exitUsage, "choose it with --platform"},
		{[]string{"buildx-args", "tiny", "--platform", "linux/amd64", "--export", root}, exitFailure, "there are other files in it"},
	} {
		if code, _, msg := invoke(t, c.args...); code != c.code || !strings.Contains(msg, c.want) {
			t.Errorf("%v: %d %s\nwant %d %s", c.args, code, msg, c.code, c.want)
		}
	}
	if entries, err := os.ReadDir(filepath.Join(root, "dist", "oci")); err == nil && len(entries) > 0 {
		t.Errorf("%v was made", entries)
	}
}
