package serve

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/rancher/rke2/airgap/catalog"
)

// piece is what is sent before the time that a client has is set anew.
const piece = 8 << 20

func (s *Server) sendBlob(w *recorder, r *http.Request, sh *shelf, repo *catalog.Repository, reference string) error {
	h, err := digest(reference)
	if err != nil {
		return err
	}
	d, ok := repo.Blobs[h]
	if !ok {
		return fail(http.StatusNotFound, codeBlobUnknown, "no bundle has the blob %s in repository %s", h, repo.Name)
	}
	header := w.Header()
	header.Set("Docker-Content-Digest", h.String())
	header.Set("ETag", `"`+h.String()+`"`)
	header.Set("Accept-Ranges", "bytes")
	header.Set("Cache-Control", "max-age=31536000, immutable")
	if fresh(r, h) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	from, n, partial, err := span(r, d.Size, h.String())
	if err != nil {
		header.Set("Content-Range", fmt.Sprintf("bytes */%d", d.Size))
		return err
	}
	header.Set("Content-Type", "application/octet-stream")
	header.Set("Content-Length", strconv.FormatInt(n, 10))
	status := http.StatusOK
	if partial {
		status = http.StatusPartialContent
		header.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, from+n-1, d.Size))
	}
	if r.Method == http.MethodHead {
		w.WriteHeader(status)
		return nil
	}
	c, err := s.blob(sh, h)
	if err != nil {
		for _, k := range []string{"Content-Length", "Content-Range", "Cache-Control", "ETag", "Docker-Content-Digest"} {
			header.Del(k)
		}
		return err
	}
	return send(w, c, status, from, n)
}

// send sends n bytes of a blob from an offset on. Where the connection is not encrypted
// the kernel copies them out of the file.
func send(w *recorder, c catalog.Content, status int, from, n int64) error {
	var r io.Reader
	if c.File != nil {
		defer c.File.Close()
		if _, err := c.File.Seek(from, io.SeekCurrent); err != nil {
			return err
		}
		r = c.File
	} else {
		r = bytes.NewReader(c.Data[from:])
	}
	w.WriteHeader(status)
	control := http.NewResponseController(w.ResponseWriter)
	for n > 0 {
		part := min(n, piece)
		// Who takes nothing for so long loses the connection; how long all takes is free.
		if err := control.SetWriteDeadline(time.Now().Add(stallTime)); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return err
		}
		if _, err := io.CopyN(w, r, part); err != nil {
			return fmt.Errorf("sending: %w", err)
		}
		n -= part
	}
	if err := control.SetWriteDeadline(time.Time{}); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}

// span is the part of a blob that is asked for: one range of bytes (RFC 9110, 14.1.2).
// Several ranges, or other units, are answered with all of it, as the RFC allows.
func span(r *http.Request, size int64, tag string) (from, n int64, partial bool, err error) {
	spec, ok := strings.CutPrefix(r.Header.Get("Range"), "bytes=")
	if !ok || r.Method != http.MethodGet || strings.Contains(spec, ",") {
		return 0, size, false, nil
	}
	// A part of something else is of no use to the client.
	if cond := r.Header.Get("If-Range"); cond != "" && cond != `"`+tag+`"` {
		return 0, size, false, nil
	}
	first, last, ok := strings.Cut(strings.TrimSpace(spec), "-")
	if !ok {
		return 0, size, false, nil
	}
	unsatisfiable := fail(http.StatusRequestedRangeNotSatisfiable, codeUnknown, "the blob has %d bytes: no part of it is %.60q", size, spec)
	if first == "" { // the last so many
		k, err := strconv.ParseInt(last, 10, 64)
		switch {
		case err != nil || k < 0:
			return 0, size, false, nil
		case k == 0 || size == 0:
			return 0, 0, false, unsatisfiable
		}
		k = min(k, size)
		return size - k, k, true, nil
	}
	a, err := strconv.ParseInt(first, 10, 64)
	if err != nil || a < 0 {
		return 0, size, false, nil
	}
	b := size - 1
	if last != "" {
		end, err := strconv.ParseInt(last, 10, 64)
		if err != nil || end < a {
			return 0, size, false, nil
		}
		b = min(b, end)
	}
	if a >= size {
		return 0, 0, false, unsatisfiable
	}
	return a, b - a + 1, true, nil
}
