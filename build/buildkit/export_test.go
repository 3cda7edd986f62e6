package buildkit

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/moby/buildkit/client"
	"github.com/tonistiigi/fsutil"

	"github.com/rancher/rke2/build/layer"
)

// What a Dockerfile is built from here, with everything that has to be escaped.
func exportable(t *testing.T) Request {
	t.Helper()
	dir := folder(t, "FROM share\nARG TITLE\nLABEL title=${TITLE}\nCOPY --from=modes / /\nCOPY sub/own /own\n", map[string]string{"sub/own": "own"})
	files := share(t)
	r := request(dir, map[string][]layer.File{"share": files, "unused": nil, "modes": {
		{Path: "deep", Mode: 0o550, Dir: true}, {Path: "deep/x", Mode: 0o400, Source: files[0].Source}, {Path: "empty", Mode: 0o500, Dir: true},
	}})
	r.Args = map[string]string{"TITLE": "it's a $HOME \\ \"title\"\nof two lines"}
	return r
}

// The command is for any shell.
func TestExportedCommand(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "it's here, \"quoted\"")
	x, err := Export(t.Context(), exportable(t), dir, "docker.io/rancher/x:v1", "out,put.tar")
	if err != nil {
		t.Fatal(err)
	}
	// A docker that says what it was told.
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "docker"), []byte("#!/bin/sh\nprintf '%s\\0' docker \"$@\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", x.Shell())
	cmd.Env = []string{"PATH=" + bin + ":/usr/bin:/bin"}
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00"); !reflect.DeepEqual(got, x.Argv) {
		t.Errorf("got\n%q\nwant\n%q", got, x.Argv)
	}
	attrs := outputOf(t, x.Argv)
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	if attrs["dest"] != filepath.Join(here, "out,put.tar") || attrs["rewrite-timestamp"] != "true" {
		t.Errorf("%v", attrs)
	}
	var written Buildx
	data, err := os.ReadFile(filepath.Join(dir, recipeName))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &written); err != nil || !reflect.DeepEqual(written, x) {
		t.Errorf("%v\n%+v\n%+v", err, written, x)
	}
}

func outputOf(t *testing.T, argv []string) map[string]string {
	t.Helper()
	attrs := map[string]string{}
	for i, a := range argv {
		if a != "--output" {
			continue
		}
		fields, err := csv.NewReader(strings.NewReader(argv[i+1])).Read()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range fields {
			k, v, _ := strings.Cut(f, "=")
			attrs[k] = v
		}
	}
	return attrs
}

// What is there is replaced, unless it is somebody else's; nothing else stays.
func TestExportReplaces(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "out")
	for range 2 {
		if _, err := Export(t.Context(), exportable(t), dir, "", "o"); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := os.ReadDir(parent)
	if err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
	if err := os.WriteFile(filepath.Join(parent, "mine"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Export(t.Context(), exportable(t), parent, "", "o"); err == nil || !strings.Contains(err.Error(), "there are other files in it") {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "Dockerfile")); err != nil {
		t.Error(err)
	}
}

// A builder that lives on takes files of one size and date for the same.
func TestExportedDatesFollowContent(t *testing.T) {
	dates := map[int64]bool{}
	for _, content := range []string{"one", "two"} {
		src := folder(t, "FROM ctx\n", map[string]string{"f": content})
		dir := filepath.Join(t.TempDir(), "out")
		x, err := Export(t.Context(), request(src, map[string][]layer.File{"ctx": {{Path: "f", Mode: 0o644, Source: filepath.Join(src, "f")}}}), dir, "", "o")
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(filepath.Join(x.Contexts["ctx"], "f"))
		if err != nil {
			t.Fatal(err)
		}
		if !info.ModTime().After(epoch) {
			t.Errorf("%s is not after the epoch: it would stay in the image", info.ModTime())
		}
		dates[info.ModTime().UnixNano()] = true
	}
	if len(dates) != 2 {
		t.Error("another content of the same size has the same date")
	}
}

// Built as buildx builds, from the exported folders and with what the command says, the
// image is the one that Build makes, to the byte.
func TestExportBuildsTheSameImage(t *testing.T) {
	b := builder(t)
	r := exportable(t)
	want, err := b.Build(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	x, err := Export(t.Context(), r, filepath.Join(t.TempDir(), "out"), "docker.io/rancher/x:v1", filepath.Join(t.TempDir(), "o.tar"))
	if err != nil {
		t.Fatal(err)
	}
	opt := client.SolveOpt{Frontend: "dockerfile.v0", FrontendAttrs: map[string]string{}, LocalMounts: map[string]fsutil.FS{}}
	mount := func(name, dir string) {
		f, err := fsutil.NewFS(dir)
		if err != nil {
			t.Fatal(err)
		}
		opt.LocalMounts[name] = f
	}
	mount("context", x.Argv[len(x.Argv)-1])
	for i, a := range x.Argv {
		switch a {
		case "--file":
			mount("dockerfile", filepath.Dir(x.Argv[i+1]))
			opt.FrontendAttrs["filename"] = filepath.Base(x.Argv[i+1])
		case "--platform":
			opt.FrontendAttrs["platform"] = x.Argv[i+1]
		case "--network":
			opt.FrontendAttrs["force-network-mode"] = x.Argv[i+1]
		case "--build-arg":
			k, v, _ := strings.Cut(x.Argv[i+1], "=")
			opt.FrontendAttrs["build-arg:"+k] = v
		case "--build-context":
			k, v, _ := strings.Cut(x.Argv[i+1], "=")
			mount(k, v)
			opt.FrontendAttrs["context:"+k] = "local:" + k
		}
	}
	attrs := outputOf(t, x.Argv)
	dest, err := os.Create(attrs["dest"])
	if err != nil {
		t.Fatal(err)
	}
	delete(attrs, "dest")
	delete(attrs, "type")
	opt.Exports = []client.ExportEntry{{Type: client.ExporterOCI, Attrs: attrs, Output: func(map[string]string) (io.WriteCloser, error) { return dest, nil }}}
	c, err := b.running(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Solve(t.Context(), nil, opt, nil); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(x.Output)
	if err != nil {
		t.Fatal(err)
	}
	at := t.TempDir()
	if err := testJob().keep(bytes.NewReader(data), at); err != nil {
		t.Fatal(err)
	}
	got, _, err := parse(at)
	if err != nil {
		t.Fatal(err)
	}
	if got.Descriptor.Digest != want.Descriptor.Digest {
		t.Errorf("tree\n%s\nwant\n%s\nconfig\n%s\nwant\n%s", lines(t, got), lines(t, want), got.Config, want.Config)
	}
}
