package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// FetchBlob fetches a blob into f as a stream whose digest and size are checked. What f
// holds already is taken for the blob's start, so that a transfer which was broken off,
// by whatever, goes on with the byte that comes next; so does one whose connection
// breaks. Where a registry serves no ranges, or the start was another blob's, all of it is
// fetched again. moved is told by how many bytes f's good part grew, what was there before
// at first, less than zero where they were in vain; it may be nil. After an error f has the part that is good for another try: none
// if the bytes were wrong.
func (r *Repository) FetchBlob(ctx context.Context, d v1.Descriptor, f *os.File, moved func(n int64)) error {
	doing := fmt.Sprintf("fetching blob %s (%d bytes) from", short(d.Digest), d.Size)
	g := &download{r: r, want: d, f: f, moved: moved}
	start, err := f.Stat()
	if err != nil {
		return err
	}
	if there := start.Size(); there <= d.Size {
		g.count(there)
	} else if err := f.Truncate(0); err != nil {
		return err
	}
	kept := g.have > 0
	for {
		if err := g.fetch(ctx); err != nil {
			return r.explain(doing, err)
		}
		got, err := hashOf(f)
		if err != nil {
			return r.explain(doing, err)
		}
		if got == d.Digest.Hex {
			return nil
		}
		g.restart()
		if err := f.Truncate(0); err != nil {
			return r.explain(doing, err)
		}
		if !kept { // else what was there before may be to blame
			return r.explain(doing, fmt.Errorf("%w: the registry gave bytes of sha256:%s", ErrDamaged, got))
		}
		kept = false
	}
}

// fetch brings the rest of the blob in.
func (g *download) fetch(ctx context.Context) error {
	most := g.have // bytes that ever were there: only more is a step forward
	for failed := 0; g.have < g.want.Size || g.want.Size == 0; {
		err := g.try(ctx)
		if err == nil && g.have == g.want.Size {
			return nil
		}
		if err == nil {
			err = io.ErrUnexpectedEOF
		}
		if failed++; g.have > most {
			failed, most = 1, g.have
		}
		if err := g.r.c.pause(ctx, "fetching blob "+short(g.want.Digest)+" from "+g.r.name.Name(), failed, err); err != nil {
			return err
		}
	}
	return nil
}

type download struct {
	r     *Repository
	want  v1.Descriptor
	f     *os.File
	have  int64
	moved func(int64)
}

func (g *download) count(n int64) {
	g.have += n
	if g.moved != nil && n != 0 {
		g.moved(n)
	}
}

func (g *download) restart() { g.count(-g.have) }

func (g *download) try(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, g.r.url("blobs/%s", g.want.Digest).String(), nil)
	if err != nil {
		return err
	}
	if g.have > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", g.have, g.want.Size-1))
	}
	resp, err := g.r.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if g.have > 0 && resp.StatusCode == http.StatusRequestedRangeNotSatisfiable {
		g.restart()
		return errors.New("the registry serves no part of the blob: all of it is fetched again")
	}
	if err := check(resp, http.StatusOK, http.StatusPartialContent); err != nil {
		return err
	}
	if resp.StatusCode == http.StatusOK || !strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", g.have)) {
		if resp.StatusCode == http.StatusPartialContent && g.have == 0 {
			return final{fmt.Errorf("the registry gives a part (%q) of what was asked for whole", resp.Header.Get("Content-Range"))}
		}
		g.restart()
		if err := g.f.Truncate(0); err != nil {
			return final{err}
		}
		if resp.StatusCode == http.StatusPartialContent {
			return errors.New("the registry gives another part than was asked for")
		}
	}
	if _, err := g.f.Seek(g.have, io.SeekStart); err != nil {
		return final{err}
	}
	stall := g.r.c.s.Stall
	timer := time.AfterFunc(stall, func() { cancel(fmt.Errorf("no byte came in for %v", stall)) })
	defer timer.Stop()
	buf := make([]byte, 256<<10)
	for {
		n, err := resp.Body.Read(buf)
		if n > 0 {
			timer.Reset(stall)
			if g.have+int64(n) > g.want.Size {
				return final{fmt.Errorf("%w: the registry gives more than the %d bytes that the manifest says", ErrDamaged, g.want.Size)}
			}
			if _, err := g.f.Write(buf[:n]); err != nil {
				return final{err}
			}
			g.count(int64(n))
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && errors.Is(context.Cause(ctx), context.Canceled), err != nil && context.Cause(ctx) == nil:
			return err
		case err != nil:
			return context.Cause(ctx)
		}
	}
}

func hashOf(f *os.File) (string, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
