package distribution

import (
	"encoding/json"
	"io"
	"net/http"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Read asks for a URL as clients of manifests do, and gives the answer and its status.
func (s *Server) Read(t testing.TB, method, url string) ([]byte, int) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json")
	resp, err := s.HTTP().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return data, resp.StatusCode
}

// Whole follows a tag or digest, through an index too, to every blob: each must be there.
// The reference itself may be absent unless must is set.
func (s *Server) Whole(t testing.TB, repo, reference string, must bool) {
	t.Helper()
	data, status := s.Read(t, http.MethodGet, s.URL("%s/manifests/%s", repo, reference))
	if status == http.StatusNotFound && !must {
		return
	}
	if status != http.StatusOK {
		t.Errorf("%s:%s: status %d", repo, reference, status)
		return
	}
	var m struct {
		Manifests, Layers []v1.Descriptor
		Config            v1.Descriptor
	}
	if err := json.Unmarshal(data, &m); err != nil {
		t.Fatal(err)
	}
	for _, d := range m.Manifests {
		s.Whole(t, repo, d.Digest.String(), true)
	}
	if len(m.Manifests) > 0 {
		return
	}
	for _, d := range append(m.Layers, m.Config) {
		if _, status := s.Read(t, http.MethodHead, s.URL("%s/blobs/%s", repo, d.Digest)); status != http.StatusOK {
			t.Errorf("%s:%s leads to blob %s, which is missing: %d", repo, reference, d.Digest, status)
		}
	}
}
