package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/zstd"

	"github.com/rancher/rke2/build/cache"
	"github.com/rancher/rke2/build/layer"
)

var epoch = time.Unix(1_700_000_000, 0).UTC()

// folder is a Dockerfile with files beside it.
func folder(t *testing.T, dockerfile string, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	files["Dockerfile"] = dockerfile
	for name, content := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// options has two contexts: kubelet with one program, and share with a small tree.
func options(t *testing.T) Options {
	t.Helper()
	dir := folder(t, "", map[string]string{"kubelet": "kubelet!", "a.txt": "a", "b.txt": "b", "c.conf": "c"})
	c, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	src := func(n string) string { return filepath.Join(dir, n) }
	return Options{
		Contexts: map[string]Context{
			"kubelet": Files{{Path: "kubelet", Mode: 0o755, Source: src("kubelet")}},
			"modes":   Files{{Path: "secret/a.txt", Mode: 0o644, Source: src("a.txt")}, {Path: "secret", Mode: 0o700, Dir: true}},
			"share": Files{
				{Path: "doc/a.txt", Mode: 0o644, Source: src("a.txt")},
				{Path: "doc/deep/b.txt", Mode: 0o644, Source: src("b.txt")},
				{Path: "c.conf", Mode: 0o600, Source: src("c.conf")},
				{Path: "link", Link: "doc/a.txt"},
			},
		},
		Platform: v1.Platform{OS: "linux", Architecture: "amd64"},
		Epoch:    epoch,
		Layers:   layer.NewBuilder(c, epoch, 2),
	}
}

func build(t *testing.T, dir string, o Options, args map[string]string) (Image, error) {
	t.Helper()
	d, err := Read(filepath.Join(dir, "Dockerfile"), args)
	if err != nil {
		return Image{}, err
	}
	if o.Local == nil {
		o.Local = Dir(dir)
	}
	return d.Build(o)
}

// tree lists what an image holds, a line an entry, layer after layer.
func tree(t *testing.T, img Image) string {
	t.Helper()
	var out []string
	for _, l := range img.Layers {
		data, err := os.ReadFile(l.Blob)
		if err != nil {
			t.Fatal(err)
		}
		dec, err := zstd.NewReader(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		r := tar.NewReader(dec)
		for {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			content, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, strings.TrimSpace(h.FileInfo().Mode().String()+" "+h.Name+" "+string(content)+h.Linkname))
		}
		dec.Close()
		out = append(out, "--")
	}
	return strings.Join(out, "\n")
}

func TestConfig(t *testing.T) {
	dir := folder(t, `# comment
ARG BASE=scratch
FROM ${BASE}
ARG VERSION
ARG NAME=thing
ARG UNUSED
LABEL version=${VERSION} name="a ${NAME}"
LABEL name=again
ENV PATH=/opt/bin:${PATH} A=1
ENV A=2 B="b c"
USER 65535:65535
EXPOSE 80 53/udp
VOLUME ["/data", "/$NAME"]
STOPSIGNAL SIGQUIT
ENTRYPOINT ["/bin/x", "--flag"]
CMD ["serve"]
`, map[string]string{})
	img, err := build(t, dir, options(t), map[string]string{"VERSION": "v1", "OTHER": "x"})
	if err != nil {
		t.Fatal(err)
	}
	var c v1.ConfigFile
	if err := json.Unmarshal(img.Config, &c); err != nil {
		t.Fatal(err)
	}
	want := v1.Config{
		User:         "65535:65535",
		ExposedPorts: map[string]struct{}{"80/tcp": {}, "53/udp": {}},
		Env:          []string{"PATH=/opt/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "A=2", "B=b c"},
		Entrypoint:   []string{"/bin/x", "--flag"},
		Cmd:          []string{"serve"},
		Volumes:      map[string]struct{}{"/data": {}, "/thing": {}},
		WorkingDir:   "/",
		Labels:       map[string]string{"version": "v1", "name": "again"},
		StopSignal:   "SIGQUIT",
	}
	if !reflect.DeepEqual(c.Config, want) {
		t.Errorf("config\n%+v\nwant\n%+v", c.Config, want)
	}
	if !c.Created.Equal(epoch) || c.OS != "linux" || c.Architecture != "amd64" || len(img.Layers) != 0 {
		t.Errorf("%+v, %d layers", c, len(img.Layers))
	}
	if img.Descriptor.Platform == nil || img.Descriptor.Platform.Architecture != "amd64" {
		t.Errorf("descriptor %+v", img.Descriptor)
	}
}

func TestCopy(t *testing.T) {
	for _, c := range []struct{ name, dockerfile, want string }{
		{"a context", "COPY --from=kubelet / /bin/", "drwxr-xr-x bin/\n-rwxr-xr-x bin/kubelet kubelet!\n--"},
		{"a context to the root", "COPY --from=kubelet / /", "-rwxr-xr-x kubelet kubelet!\n--"},
		{"a file to a folder", "COPY --from=kubelet /kubelet /usr/bin/", "drwxr-xr-x usr/\ndrwxr-xr-x usr/bin/\n-rwxr-xr-x usr/bin/kubelet kubelet!\n--"},
		{"a file to a name", "COPY --from=kubelet kubelet /hyper", "-rwxr-xr-x hyper kubelet!\n--"},
		{"a folder's content", "COPY --from=share /doc /d", "drwxr-xr-x d/\n-rw-r--r-- d/a.txt a\ndrwxr-xr-x d/deep/\n-rw-r--r-- d/deep/b.txt b\n--"},
		{"several", "COPY --from=share c.conf doc/a.txt /d/", "drwxr-xr-x d/\n-rw-r--r-- d/a.txt a\n-rw------- d/c.conf c\n--"},
		{"everything", "COPY --from=share / /d/", "drwxr-xr-x d/\n-rw------- d/c.conf c\ndrwxr-xr-x d/doc/\n-rw-r--r-- d/doc/a.txt a\ndrwxr-xr-x d/doc/deep/\n-rw-r--r-- d/doc/deep/b.txt b\nLrwxrwxrwx d/link doc/a.txt\n--"},
		{"wildcard", "COPY --from=share /doc/*.txt /", "-rw-r--r-- a.txt a\n--"},
		{"wildcard over folders", "COPY --from=share /*/a.txt /", "-rw-r--r-- a.txt a\n--"},
		{"chmod", "COPY --chmod=0400 --from=share /doc /d/", "dr-------- d/\n-r-------- d/a.txt a\ndr-------- d/deep/\n-r-------- d/deep/b.txt b\n--"},
		{"a folder keeps its mode", "COPY --from=modes / /\nCOPY --from=kubelet / /secret/", "drwx------ secret/\n-rw-r--r-- secret/a.txt a\n--\ndrwx------ secret/\n-rwxr-xr-x secret/kubelet kubelet!\n--"},
		{"root's already", "COPY --link --chown=0:0 --from=kubelet / /", "-rwxr-xr-x kubelet kubelet!\n--"},
		{"the Dockerfile's folder", "COPY sub /etc/", "drwxr-xr-x etc/\n-rw-r--r-- etc/own own\n--"},
		{"relative", "WORKDIR /srv\nCOPY sub/own .", "drwxr-xr-x srv/\n--\ndrwxr-xr-x srv/\n-rw-r--r-- srv/own own\n--"},
		{"WORKDIR of a folder that is there", "COPY sub /etc/\nWORKDIR /etc", "drwxr-xr-x etc/\n-rw-r--r-- etc/own own\n--"},
		{"WORKDIR relative", "WORKDIR /a\nWORKDIR b", "drwxr-xr-x a/\n--\ndrwxr-xr-x a/\ndrwxr-xr-x a/b/\n--"},
		{"out of the context is its root", "COPY --from=kubelet ../../kubelet /", "-rwxr-xr-x kubelet kubelet!\n--"},
		{"out of the image is its root", "COPY --from=kubelet kubelet /../../x/", "drwxr-xr-x x/\n-rwxr-xr-x x/kubelet kubelet!\n--"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := folder(t, "FROM scratch\n"+c.dockerfile+"\n", map[string]string{"sub/own": "own"})
			img, err := build(t, dir, options(t), nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := tree(t, img); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
		})
	}
}

func TestFromContext(t *testing.T) {
	img, err := build(t, folder(t, "FROM kubelet\nCOPY --from=share /c.conf /etc/\n", map[string]string{}), options(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := tree(t, img); got != "-rwxr-xr-x kubelet kubelet!\n--\ndrwxr-xr-x etc/\n-rw------- etc/c.conf c\n--" {
		t.Errorf("got\n%s", got)
	}
}

func TestContexts(t *testing.T) {
	dir := folder(t, "FROM kubelet\nCOPY --from=share / /\nCOPY --from=share /x /y\nCOPY Dockerfile /\n", map[string]string{})
	d, err := Read(filepath.Join(dir, "Dockerfile"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(d.Uses()); got != "[{kubelet 1} {share 2}]" {
		t.Errorf("contexts %s", got)
	}
}

// What is not understood is refused by name, file and line, not passed over.
func TestRefused(t *testing.T) {
	for _, c := range []struct {
		name, dockerfile string
		want             []string
	}{
		{"RUN", "FROM scratch\nRUN make", []string{"Dockerfile:2:", "instruction RUN is not understood"}},
		{"ADD", "FROM scratch\n\nADD x /", []string{"Dockerfile:3:", "instruction ADD"}},
		{"lower case", "from scratch\nadd x /", []string{"Dockerfile:2:", "instruction ADD"}},
		{"HEALTHCHECK", "FROM scratch\nHEALTHCHECK NONE", []string{"Dockerfile:2:", "HEALTHCHECK"}},
		{"ONBUILD", "FROM scratch\nONBUILD COPY a /", []string{"Dockerfile:2:", "ONBUILD"}},
		{"SHELL", "FROM scratch\nSHELL [\"sh\"]", []string{"Dockerfile:2:", "SHELL"}},
		{"MAINTAINER", "FROM scratch\nMAINTAINER me", []string{"Dockerfile:2:", "MAINTAINER"}},
		{"unknown", "FROM scratch\nFROB x", []string{"Dockerfile:2:", "FROB"}},
		{"after a continued line", "FROM scratch\nLABEL a=1 \\\n  b=2\nRUN x", []string{"Dockerfile:4:", "RUN"}},
		{"second FROM", "FROM scratch\nFROM scratch", []string{"Dockerfile:2:", "second FROM"}},
		{"platform", "FROM --platform=linux/arm64 scratch", []string{"Dockerfile:1:", "FROM --platform"}},
		{"no FROM", "ARG A", []string{"Dockerfile", "no FROM"}},
		{"before FROM", "LABEL a=b\nFROM scratch", []string{"Dockerfile:1:", "LABEL before FROM"}},
		{"empty", "", []string{"Dockerfile:1:", "no instructions"}},
		{"syntax directive", "# syntax=docker/dockerfile:1\nFROM scratch", []string{"Dockerfile:1:", "syntax directive"}},
		{"unknown flag", "FROM scratch\nCOPY --frm=a / /", []string{"Dockerfile:2:", "frm"}},
		{"parents", "FROM scratch\nCOPY --parents a /", []string{"Dockerfile:2:", "parents"}},
		{"exclude", "FROM scratch\nCOPY --exclude=b a /", []string{"Dockerfile:2:", "exclude"}},
		{"chown", "FROM scratch\nCOPY --chown=1000 a /", []string{"Dockerfile:2:", "--chown=1000"}},
		{"chmod", "FROM scratch\nCOPY --chmod=u+x a /", []string{"Dockerfile:2:", "--chmod=u+x"}},
		{"here-document", "FROM scratch\nCOPY <<EOF /x\nhi\nEOF", []string{"Dockerfile:2:", "here-document"}},
		{"shell form", "FROM scratch\nCMD echo hi", []string{"Dockerfile:2:", "CMD in the shell form"}},
		{"shell form of ENTRYPOINT", "FROM scratch\nENTRYPOINT run", []string{"Dockerfile:2:", "ENTRYPOINT in the shell form"}},
		{"variable", "FROM scratch\nLABEL v=${NOPE}", []string{"Dockerfile:2:", "variable NOPE"}},
		{"variable of a later ARG", "FROM scratch\nLABEL v=$V\nARG V=1", []string{"Dockerfile:2:", "variable V"}},
		{"variable of before FROM", "ARG V=1\nFROM scratch\nLABEL v=$V", []string{"Dockerfile:3:", "variable V"}},
		{"ARG that nobody gives", "FROM scratch\nARG V\nLABEL v=$V", []string{"Dockerfile:3:", "variable V"}},
		{"port", "FROM scratch\nEXPOSE 1-3", []string{"Dockerfile:2:", "EXPOSE 1-3"}},
		{"WORKDIR of a user", "FROM scratch\nUSER 1\nWORKDIR /a", []string{"Dockerfile:3:", "WORKDIR below USER"}},
		{"no destination", "FROM scratch\nCOPY a", []string{"Dockerfile:2:", "COPY"}},
		{"unknown context", "FROM scratch\nCOPY --from=kubelt / /bin/", []string{"Dockerfile:2:", "--from=kubelt", "known are: kubelet, modes, share"}},
		{"unknown base", "FROM debian:12", []string{"Dockerfile:1:", "FROM debian:12", "known are"}},
		{"no such file", "FROM scratch\nCOPY --from=kubelet /kubectl /bin/", []string{"Dockerfile:2:", "context kubelet has no /kubectl"}},
		{"no such local file", "FROM scratch\nCOPY nothing /", []string{"Dockerfile:2:", "the Dockerfile's folder has no nothing"}},
		{"several to a file", "FROM scratch\nCOPY --from=share c.conf doc/a.txt /d", []string{"Dockerfile:2:", "write /d/"}},
		{"a link by name", "FROM scratch\nCOPY --from=share link /d", []string{"Dockerfile:2:", "link is a symbolic link"}},
		{"a folder without slash", "FROM scratch\nWORKDIR /d\nCOPY --from=share c.conf /d", []string{"Dockerfile:3:", "write /d/"}},
		{"twice in the image", "FROM scratch\nCOPY --from=kubelet / /\nCOPY --from=kubelet / /", []string{"Dockerfile:3:", "/kubelet is in the image already"}},
		{"below a file", "FROM scratch\nCOPY --from=kubelet / /\nCOPY --from=share /doc /kubelet/x", []string{"Dockerfile:3:", "/kubelet"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := build(t, folder(t, c.dockerfile+"\n", map[string]string{"a": "a"}), options(t), nil)
			if err == nil {
				t.Fatal("built")
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("got %q, want %q in it", err, w)
				}
			}
		})
	}
}

// Built twice, with caches, folders, modes and dates of their own: the same digest.
func TestReproducible(t *testing.T) {
	const dockerfile = "FROM scratch\nARG V\nLABEL v=$V\nCOPY --from=kubelet / /bin/\nCOPY sub /etc/\nWORKDIR /charts\n"
	args := map[string]string{"V": "1"}
	one := folder(t, dockerfile, map[string]string{"sub/own": "own"})
	first, err := build(t, one, options(t), args)
	if err != nil {
		t.Fatal(err)
	}
	two := folder(t, dockerfile, map[string]string{"sub/own": "own", "unrelated": "x"})
	if err := os.Chmod(filepath.Join(two, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(two, "sub/own"), 0o664); err != nil {
		t.Fatal(err)
	}
	second, err := build(t, two, options(t), args)
	if err != nil {
		t.Fatal(err)
	}
	if first.Descriptor.Digest != second.Descriptor.Digest {
		t.Errorf("%s\n%s", first.Manifest, second.Manifest)
	}
	third, err := build(t, one, options(t), map[string]string{"V": "2"})
	if err != nil {
		t.Fatal(err)
	}
	if third.Descriptor.Digest == first.Descriptor.Digest {
		t.Error("another label, the same digest: this test can't fail")
	}
	if len(first.Layers) != 3 || third.Layers[0].Digest != first.Layers[0].Digest {
		t.Errorf("layers are not shared: %d", len(first.Layers))
	}
	m, err := v1.ParseManifest(bytes.NewReader(first.Manifest))
	if err != nil {
		t.Fatal(err)
	}
	if m.MediaType != "application/vnd.oci.image.manifest.v1+json" || m.Layers[0].MediaType != "application/vnd.oci.image.layer.v1.tar+zstd" || m.Config.MediaType != "application/vnd.oci.image.config.v1+json" {
		t.Errorf("media types: %+v", m)
	}
}
