package buildkit

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/build/cache"
	"github.com/rancher/rke2/build/image"
	"github.com/rancher/rke2/build/layer"
)

// What the daemonless builder understands means the same to BuildKit: the same tree and
// the same configuration.
func TestSubsetMeansTheSame(t *testing.T) {
	b := builder(t)
	store, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	layers := layer.NewBuilder(store, epoch, 2)
	all := share(t)
	contexts := map[string][]layer.File{"share": all, "kubelet": {{Path: "kubelet", Mode: 0o755, Source: all[0].Source}}, "modes": {
		{Path: "deep", Mode: 0o750, Dir: true}, {Path: "deep/x", Mode: 0o600, Source: all[0].Source}, {Path: "empty", Mode: 0o500, Dir: true},
	}}
	for _, c := range []struct{ name, dockerfile string }{
		{"nothing", ""},
		{"a context", "COPY --from=kubelet / /bin/"},
		{"a context to the root", "COPY --from=kubelet / /"},
		{"a file to a folder", "COPY --from=kubelet /kubelet /usr/bin/"},
		{"a file to a name", "COPY --from=kubelet kubelet /hyper"},
		{"a folder's content", "COPY --from=share /doc /d"},
		{"several", "COPY --from=share c.conf doc/a.txt /d/"},
		{"everything", "COPY --from=share / /d/"},
		{"wildcard", "COPY --from=share /doc/*.txt /"},
		{"wildcard over folders", "COPY --from=share /*/a.txt /"},
		{"chmod", "COPY --chmod=0400 --from=share /doc/a.txt /d/"},
		{"chmod below new folders", "COPY --chmod=0640 --from=share /doc/a.txt /x/y/d/"},
		{"chmod to a name below new folders", "COPY --chmod=0640 --from=share /doc/a.txt /x/y/b"},
		{"chmod into a folder that is there", "COPY --from=share /doc /d/\nCOPY --chmod=0640 --from=kubelet / /d/"},
		{"chmod of a folder below new ones", "COPY --chmod=0750 --from=share /doc /x/y/d"},
		{"chmod of a folder", "COPY --chmod=0750 --from=share /doc /d/"},
		{"link", "COPY --link --from=kubelet / /bin/"},
		{"root's already", "COPY --chown=0:0 --from=kubelet / /"},
		{"the Dockerfile's folder", "COPY sub /etc/"},
		{"relative", "WORKDIR /srv\nCOPY sub/own ."},
		{"WORKDIR of a folder that is there", "COPY sub /etc/\nWORKDIR /etc"},
		{"WORKDIR relative", "WORKDIR /a\nWORKDIR b"},
		{"out of the context is its root", "COPY --from=kubelet ../../kubelet /"},
		{"out of the image is its root", "COPY --from=kubelet kubelet /../../x/"},
		{"into a folder of another mode", "COPY --from=share /doc /doc/\nCOPY --from=kubelet kubelet /doc/deep/"},
		{"a folder over one of another mode", "COPY --from=kubelet kubelet /deep/\nCOPY --from=share /doc /"},
		{"chmod over folders", "COPY --from=share /doc /d\nCOPY --chmod=0711 --from=modes / /d/"},
		{"a folder's content into one of another mode", "COPY --from=share /doc /d\nCOPY --from=kubelet / /d/deep"},
		{"a folder with a mode into a new one", "COPY --from=share /doc/deep /d"},
		{"a folder with a mode into one that is there", "WORKDIR /d\nCOPY --from=share /doc/deep /d"},
		{"WORKDIR below a folder of another mode", "COPY --from=share / /\nWORKDIR /doc/deep/er"},
		{"more modes", "COPY --from=modes / /"},
		{"one context after the other", "COPY --from=share /doc /d/\nCOPY --from=kubelet / /d/\nCOPY --from=share /c.conf /d/other/"},
		{"configuration", `ARG VERSION
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
CMD ["serve"]`},
		{"CMD before ENTRYPOINT", "CMD [\"a\"]\nENTRYPOINT [\"b\"]"},
		{"empty ENTRYPOINT", "ENTRYPOINT []\nCMD []"},
		{"user by name", "USER nobody"},
		{"platform", "ARG TARGETARCH\nARG SOURCE_DATE_EPOCH\nLABEL arch=${TARGETARCH} of=${SOURCE_DATE_EPOCH}"},
	} {
		for _, base := range []string{"scratch", "share"} {
			t.Run(base+"/"+c.name, func(t *testing.T) {
				if base == "share" && strings.Contains(c.dockerfile, "COPY") {
					t.Skip("a file may be in an image once")
				}
				dir := folder(t, "FROM "+base+"\n"+c.dockerfile+"\n", map[string]string{"sub/own": "own"})
				r := request(dir, contexts)
				r.Args = map[string]string{"VERSION": "v1", "TARGETARCH": "amd64", "SOURCE_DATE_EPOCH": "1700000000"}
				compare(t, b, layers, r)
			})
		}
	}
}

func compare(t *testing.T, b *Builder, layers *layer.Builder, r Request) {
	t.Helper()
	theirs, err := b.Build(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	file, err := image.Read(r.Dockerfile, r.Args)
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]image.Context{}
	for n, files := range r.Contexts {
		named[n] = image.Files(files)
	}
	ours, err := file.Build(image.Options{Contexts: named, Local: r.Local, Platform: r.Platform, Epoch: r.Epoch, Layers: layers})
	if err != nil {
		t.Fatal(err)
	}
	if a, b := lines(t, ours), lines(t, theirs); a != b {
		t.Errorf("the daemonless builder's tree\n%s\nBuildKit's\n%s", a, b)
	}
	if a, b := config(t, ours), config(t, theirs); a != b {
		t.Errorf("the daemonless builder's configuration\n%s\nBuildKit's\n%s", a, b)
	}
	if a, b := origins(ours), origins(theirs); a != b {
		t.Errorf("the daemonless builder's files\n%s\nBuildKit's\n%s", a, b)
	}
}

// origins says where an image's files are from, for its SBOM.
func origins(img image.Image) string {
	var out []string
	for _, f := range img.Files {
		if !f.Dir {
			out = append(out, strings.Join([]string{f.Path, f.Link, f.Source, f.Package}, " "))
		}
	}
	return strings.Join(out, "\n")
}

// config is what both builders must agree on: all but the layers and how the history
// words them.
func config(t *testing.T, img image.Image) string {
	t.Helper()
	var c v1.ConfigFile
	if err := json.Unmarshal(img.Config, &c); err != nil {
		t.Fatal(err)
	}
	// Deprecated, of meaning on Windows, and set by BuildKit wherever there is a CMD.
	c.Config.ArgsEscaped = false
	if len(c.RootFS.DiffIDs) == 0 {
		c.Created = v1.Time{} // BuildKit dates what has layers
	}
	c.RootFS, c.History = v1.RootFS{}, nil
	data, err := json.MarshalIndent(c, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// Two daemons, two caches: one digest.
func TestDeterministic(t *testing.T) {
	dir := folder(t, "FROM scratch\nCOPY --from=share / /srv/\nCOPY sub /etc/\nWORKDIR /new\n", map[string]string{"sub/own": "own"})
	files := share(t)
	big := filepath.Join(dir, "big")
	if err := os.WriteFile(big, []byte(strings.Repeat("some text that compresses\n", 1<<20)), 0o600); err != nil {
		t.Fatal(err)
	}
	digests := map[string]bool{}
	for range 2 {
		r := request(dir, map[string][]layer.File{"share": append([]layer.File{{Path: "big", Mode: 0o755, Source: big}}, files...)})
		r.Local = image.Dir(filepath.Join(dir, "."))
		img, err := builder(t).Build(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		digests[img.Descriptor.Digest.String()] = true
	}
	if len(digests) != 1 {
		t.Errorf("digests %v", digests)
	}
}
