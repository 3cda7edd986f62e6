package airgap

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Source is what a bundle is written from. Its blobs need not be verified: Write does.
type Source interface {
	// Index lists images and their signatures, annotated as this package describes.
	Index() (*v1.IndexManifest, error)
	Blob(v1.Hash) (io.ReadCloser, error)
}

// Layout is an OCI image layout in a folder.
type Layout string

var _ Source = Layout("")

// Index reads the layout's index.json.
func (l Layout) Index() (*v1.IndexManifest, error) {
	b, err := l.read(layoutFile, 4<<10)
	if err != nil {
		return nil, err
	}
	var v struct {
		ImageLayoutVersion string `json:"imageLayoutVersion"`
	}
	if err := unmarshal(b, &v, layoutFile); err != nil {
		return nil, fmt.Errorf("reading layout %s: %w", string(l), err)
	}
	if v.ImageLayoutVersion != "1.0.0" {
		return nil, fmt.Errorf("reading layout %s: version %q is not known", string(l), v.ImageLayoutVersion)
	}
	if b, err = l.read(indexFile, maxIndex); err != nil {
		return nil, err
	}
	idx, err := parseIndex(b)
	if err != nil {
		return nil, fmt.Errorf("reading layout %s: %w", string(l), err)
	}
	return idx, nil
}

func (l Layout) read(file string, limit int64) ([]byte, error) {
	f, err := os.Open(filepath.Join(string(l), file))
	if err != nil {
		return nil, fmt.Errorf("reading layout: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading layout: %w", err)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("reading layout %s: %s has more than %d bytes", string(l), file, limit)
	}
	return b, nil
}

// Blob opens a blob's file.
func (l Layout) Blob(h v1.Hash) (io.ReadCloser, error) {
	f, err := os.Open(filepath.Join(string(l), "blobs", h.Algorithm, h.Hex))
	if err != nil {
		return nil, fmt.Errorf("reading layout: %w", err)
	}
	return f, nil
}
