package prepull

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestRead(t *testing.T) {
	const list = "# our tools\n\nbusybox\n  registry.example:5000/tools/probe:v2  # of the site\nregistry.example/app@sha256:0123456789012345678901234567890123456789012345678901234567890123\r\n"
	lines, err := Read(strings.NewReader(list), "list.txt")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, l := range lines {
		got = append(got, l.Ref.String())
	}
	want := []string{
		"docker.io/library/busybox:latest", "registry.example:5000/tools/probe:v2",
		"registry.example/app@sha256:0123456789012345678901234567890123456789012345678901234567890123",
	}
	if !slices.Equal(got, want) || lines[1].Line != 4 || lines[1].File != "list.txt" {
		t.Errorf("%q, %+v", got, lines)
	}
	for what, c := range map[string]struct{ text, want string }{
		"a note":             {"These are our bundles.\nPlease leave them.\n", "line 1"},
		"one bad line":       {"busybox\nUPPER CASE\n", "line 2"},
		"many bad lines":     {strings.Repeat("no reference\n", 10), "and 7 more"},
		"more than is read":  {strings.Repeat("a", maxFile), "list.txt"},
		"larger than a list": {strings.Repeat("busybox\n", maxFile/8+1), "more than"},
	} {
		lines, err := Read(strings.NewReader(c.text), "list.txt")
		if err == nil || len(lines) > 0 || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "list.txt") {
			t.Errorf("%s: %v, %d lines", what, err, len(lines))
		}
	}
}

func TestReadFolder(t *testing.T) {
	dir := t.TempDir()
	for path, text := range map[string]string{
		"b.txt": "b", "a.TXT": "a", "site/c.txt": "c", ".hidden.txt": "no list", ".dir/x.txt": "x",
		"README.txt": "This is a note.", "bundle.tar": "not looked into",
	} {
		path = filepath.Join(dir, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	lines, err := ReadFolder(dir)
	var got []string
	for _, l := range lines {
		got = append(got, l.Ref.Context().RepositoryStr())
	}
	if !slices.Equal(got, []string{"library/a", "library/b", "library/c"}) {
		t.Errorf("%q", got)
	}
	if err == nil || !strings.Contains(err.Error(), "README.txt") || strings.Contains(err.Error(), "hidden") {
		t.Errorf("%v", err)
	}
	if _, err := ReadFolder(filepath.Join(dir, "absent")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

// registry is a container runtime that can pull some images, some of them only later.
type registry struct {
	has    map[string]bool
	serves map[string]int // failures before it does
	pulls  []string
}

func (r *registry) ImageStatus(_ context.Context, in *runtimeapi.ImageStatusRequest, _ ...grpc.CallOption) (*runtimeapi.ImageStatusResponse, error) {
	if r.has[in.Image.Image] {
		return &runtimeapi.ImageStatusResponse{Image: &runtimeapi.Image{}}, nil
	}
	return &runtimeapi.ImageStatusResponse{}, nil
}

func (r *registry) PullImage(_ context.Context, in *runtimeapi.PullImageRequest, _ ...grpc.CallOption) (*runtimeapi.PullImageResponse, error) {
	ref := in.Image.Image
	r.pulls = append(r.pulls, ref)
	left, served := r.serves[ref]
	if !served || left > 0 {
		r.serves[ref]--
		return nil, errors.New("mirror.example says 503")
	}
	r.has[ref] = true
	return &runtimeapi.PullImageResponse{}, nil
}

func lines(t *testing.T, refs ...string) []Line {
	t.Helper()
	out, err := Read(strings.NewReader(strings.Join(refs, "\n")), "site.txt")
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestRun(t *testing.T) {
	const here, soon, pinned, other = "example.com/x/here:1", "example.com/x/soon:1", "example.com/x/pinned:1", "example.com/x/other:1"
	byDigest := "example.com/x/pinned@sha256:" + strings.Repeat("ab", 32)
	r := &registry{has: map[string]bool{here: true}, serves: map[string]int{soon: 2, byDigest: 0, other: 0}}
	var log bytes.Buffer
	var pulled []string
	Puller{
		Runtime: r, First: time.Millisecond, Log: slog.New(slog.NewTextHandler(&log, nil)),
		Admit: func(_ context.Context, ref name.Reference) (name.Reference, error) {
			switch ref.String() {
			case pinned:
				return name.ParseReference(byDigest)
			case other:
				return nil, fmt.Errorf("%w: it is not signed", ErrRefused)
			}
			return ref, nil
		},
		Pulled: func(_ context.Context, ref, as name.Reference) error {
			pulled = append(pulled, ref.String()+" "+as.String())
			return nil
		},
	}.Run(t.Context(), lines(t, here, soon, soon, pinned, other))
	if want := []string{soon, byDigest, soon, soon}; !slices.Equal(r.pulls, want) {
		t.Errorf("pulls %q, want %q", r.pulls, want)
	}
	if want := []string{here + " " + here, pinned + " " + byDigest, soon + " " + soon}; !slices.Equal(pulled, want) {
		t.Errorf("pulled %q, want %q", pulled, want)
	}
	for _, want := range []string{"mirror.example says 503", "attempt=2", "it is not signed", "site.txt", "line=5", "2 of 4", "images of lists are done"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("no %q in the log:\n%s", want, log.String())
		}
	}
}

func TestRunOffline(t *testing.T) {
	const here, gone, away = "example.com/x/here:1", "example.com/x/gone:1", "example.com/x/away:1"
	r := &registry{has: map[string]bool{here: true}, serves: map[string]int{}}
	var log bytes.Buffer
	Puller{
		Runtime: r, Offline: true, Log: slog.New(slog.NewTextHandler(&log, nil)),
		Pulled: func(context.Context, name.Reference, name.Reference) error { return nil },
	}.Run(t.Context(), lines(t, gone, here, away))
	if len(r.pulls) > 0 || strings.Count(log.String(), "level=WARN") != 1 {
		t.Errorf("pulls %q, log:\n%s", r.pulls, log.String())
	}
	for _, want := range []string{gone, away, "offline is set"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("no %q in the log:\n%s", want, log.String())
		}
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		Puller{
			Runtime: &registry{serves: map[string]int{}}, Log: slog.New(slog.DiscardHandler),
			Admit: func(_ context.Context, ref name.Reference) (name.Reference, error) { return ref, nil },
		}.Run(ctx, lines(t, "example.com/x/never:1"))
	}()
	cancel()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("it goes on")
	}
}
