package airgap

import (
	"context"
	"fmt"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Attachment is a manifest that is about another: its signatures or attestations.
type Attachment struct {
	// Kind is KindSignatures, KindAttestations or another that the index says.
	Kind    string
	Subject v1.Hash // the manifest or image index that it is about
	Desc    v1.Descriptor
}

// Attachments lists what is attached to the archive's images and artifacts, in the
// archive's order. A compressed archive is read whole for it, once; progress, which may
// be nil, is told the compressed bytes.
func (a *Archive) Attachments(ctx context.Context, progress func(done, total int64)) ([]Attachment, error) {
	if err := a.read(ctx, progress); err != nil {
		return nil, fmt.Errorf("reading bundle %s: %w", a.file, err)
	}
	var out []Attachment
	for _, at := range a.attached {
		out = append(out, Attachment{Kind: at.kind, Subject: at.subject, Desc: at.desc})
	}
	return out, nil
}

// Place is where a blob's bytes are in an archive that is not compressed.
type Place struct{ Offset, Size int64 }

// Locate tells where a blob is. Its offset is of no use in a compressed archive.
func (a *Archive) Locate(h v1.Hash) (Place, bool) {
	if a.whole() != nil {
		return Place{}, false
	}
	e, ok := a.blobs[h]
	return Place{e.off, e.size}, ok
}

// Reopen opens the archive's file anew, with a position of its own: the very file that
// was opened, also where another has taken its name since. The caller closes it.
func (a *Archive) Reopen() (*os.File, error) {
	own, ok := a.f.(*os.File)
	if !ok {
		return nil, fmt.Errorf("reading bundle %s: it is no file", a.file)
	}
	f, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", own.Fd()))
	if err != nil {
		return nil, fmt.Errorf("reading bundle %s: %w", a.file, err)
	}
	return f, nil
}

// Each calls fn with every blob of the archive, in its order.
func (a *Archive) Each(fn func(h v1.Hash, size int64)) error {
	if err := a.whole(); err != nil {
		return err
	}
	for _, h := range a.order {
		fn(h, a.blobs[h].size)
	}
	return nil
}
