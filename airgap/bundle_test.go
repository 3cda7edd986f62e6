package airgap

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/airgap/trust"
)

func TestRoundTrip(t *testing.T) {
	f := simple(t, 3000)
	a := mustOpen(t, file(t, "b.tar", f.bytes(core())))
	if a.Format() != FormatOCI || !a.IsBundle() {
		t.Errorf("format %s, bundle %v", a.Format(), a.IsBundle())
	}
	var got []string
	for _, img := range a.Images() {
		got = append(got, img.Refs[0].String())
		if img.Platform.String() != "linux/amd64" {
			t.Errorf("%s: platform %s", img.Refs[0], img.Platform)
		}
		sigs, err := a.Signatures(img.Desc.Digest)
		noError(t, err)
		adm, err := trust.Policy{ReleaseKeys: []trust.Key{f.key}}.Admit(img.Refs[0], img.Desc.Digest, sigs)
		noError(t, err)
		if !adm.Valid() || !adm.Verified() {
			t.Errorf("%s: %+v", img.Refs[0], adm)
		}
		m, _, err := a.Manifest(img.Desc.Digest)
		noError(t, err)
		for _, l := range m.Layers {
			want, err := f.dir.Bytes(l.Digest)
			noError(t, err)
			r, err := a.Blob(l.Digest)
			noError(t, err)
			have, err := io.ReadAll(r)
			noError(t, errors.Join(err, r.Close()))
			if !bytes.Equal(have, want) {
				t.Errorf("layer %s differs", l.Digest)
			}
		}
	}
	if len(got) != 2 || got[0] != "docker.io/rancher/hardened-etcd:v3.6.8-rke2r1" || got[1] != "docker.io/rancher/rke2-runtime:v1.35.4-rke2r1" {
		t.Errorf("images %q", got)
	}
	if _, err := a.Blob(v1.Hash{Algorithm: "sha256", Hex: "00"}); !errors.Is(err, ErrNotFound) {
		t.Errorf("unknown blob: %v", err)
	}
}

// TestEveryByte flips each byte of a small bundle: in the head, the headers, the
// padding and the end Open must refuse it; in a blob, reading must.
func TestEveryByte(t *testing.T) {
	b := simple(t, 300).bytes(core())
	path := file(t, "b.tar", b)
	noError(t, readAll(path))
	head, err := os.OpenFile(path, os.O_RDWR, 0)
	noError(t, err)
	defer head.Close()
	for i := range b {
		for _, flip := range []byte{0x01, 0x20} {
			_, err := head.WriteAt([]byte{b[i] ^ flip}, int64(i))
			noError(t, err)
			if err := readAll(path); err == nil {
				t.Fatalf("byte %d: %q ^ %#x went unnoticed", i, b[i], flip)
			}
		}
		_, err := head.WriteAt(b[i:i+1], int64(i))
		noError(t, err)
	}
	noError(t, readAll(path))
}

// TestTruncation cuts a bundle at every length.
func TestTruncation(t *testing.T) {
	b := simple(t, 300).bytes(core())
	path := file(t, "b.tar", b)
	for n := len(b) - 1; n >= 0; n-- {
		noError(t, os.Truncate(path, int64(n)))
		_, err := Open(path)
		if err == nil {
			t.Fatalf("%d of %d bytes were accepted", n, len(b))
		}
		if n > blockSize && !errors.Is(err, ErrTruncated) {
			t.Fatalf("%d of %d bytes: %v", n, len(b), err)
		}
	}
}
