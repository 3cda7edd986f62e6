package distribution

import (
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/rancher/rke2/airgap"
)

// Seed copies a layout of [WriteLayout] into the registry that its images are named
// after, as docker push and cosign would: what is attached goes under cosign's tags.
func (s *Server) Seed(t testing.TB, dir string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	path := layout.Path(dir)
	all, err := path.ImageIndex()
	must(err)
	idx, err := all.IndexManifest()
	must(err)
	opts := []remote.Option{remote.WithTransport(s.HTTP().Transport), remote.WithAuth(authn.Anonymous)}
	at := map[string]string{} // repository of each manifest
	for _, d := range idx.Manifests {
		ref := d.Annotations[airgap.AnnotationImageName]
		if ref == "" {
			continue
		}
		tag, err := name.NewTag(ref)
		must(err)
		at[d.Digest.String()] = tag.Repository.Name()
		if !d.MediaType.IsIndex() {
			img, err := path.Image(d.Digest)
			must(err)
			must(remote.Write(tag, img, opts...))
			continue
		}
		one, err := all.ImageIndex(d.Digest)
		must(err)
		must(remote.WriteIndex(tag, one, opts...))
		m, err := one.IndexManifest()
		must(err)
		for _, c := range m.Manifests {
			at[c.Digest.String()] = tag.Repository.Name()
		}
	}
	suffixes := map[string]string{airgap.KindSignatures: ".sig", airgap.KindAttestations: ".att"}
	for _, d := range idx.Manifests {
		suffix := suffixes[d.Annotations[airgap.AnnotationKind]]
		if suffix == "" {
			continue
		}
		of := d.Annotations[airgap.AnnotationSigns]
		tag, err := name.NewTag(at[of] + ":" + strings.Replace(of, ":", "-", 1) + suffix)
		must(err)
		img, err := path.Image(d.Digest)
		must(err)
		must(remote.Write(tag, img, opts...))
	}
}

// Tap forwards connections to a registry, TLS and all, and counts and slows what it sends.
type Tap struct {
	Addr string       // HOST:PORT
	Sent atomic.Int64 // bytes from the registry
	Rate atomic.Int64 // bytes a second of one connection; 0: no limit
}

// NewTap starts a tap, which ends with the test.
func NewTap(t testing.TB, s *Server) *Tap {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tap := &Tap{Addr: l.Addr().String()}
	var wg sync.WaitGroup
	stop := make(chan struct{})
	t.Cleanup(func() {
		close(stop)
		_ = l.Close()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { tap.forward(c, s.Addr, stop) })
		}
	})
	return tap
}

func (tap *Tap) forward(client net.Conn, to string, stop chan struct{}) {
	defer client.Close()
	server, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer server.Close()
	done := make(chan struct{}, 2)
	go func() {
		_, _ = io.Copy(server, client) // it ends as the connection does
		done <- struct{}{}
	}()
	go func() {
		buf := make([]byte, 16<<10)
		for {
			n, err := server.Read(buf)
			tap.Sent.Add(int64(n))
			if _, werr := client.Write(buf[:n]); err != nil || werr != nil {
				break
			}
			if rate := tap.Rate.Load(); rate > 0 {
				time.Sleep(time.Duration(float64(n) / float64(rate) * float64(time.Second)))
			}
		}
		done <- struct{}{}
	}()
	select {
	case <-done:
	case <-stop:
	}
}
