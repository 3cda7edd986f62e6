package images

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"runtime"
)

//go:embed release.json
var embedded []byte

// Release says which images a release is made of and which keys vouch for them. A
// release build of the node binary puts it in the place of the committed release.json
// (go build -overlay); the committed one is empty and so trusts nothing.
type Release struct {
	Version     string         `json:"version,omitempty"`    // version of Kubernetes + release
	Kubernetes  string         `json:"kubernetes,omitempty"` // version of Kubernetes
	Registry    string         `json:"registry,omitempty"`   // images' registry, docker.io in form
	Repo        string         `json:"repo,omitempty"`       // images' repository prefix
	Development bool           `json:"development,omitempty"`
	PublicKeys  []string       `json:"publicKeys,omitempty"` // PEM, PKIX
	Images      []ReleaseImage `json:"images,omitempty"`     // sorted by name
}

// ReleaseImage is one image of a release.
type ReleaseImage struct {
	Name      string `json:"name"`
	Reference string `json:"reference"` // registry/repo/name:tag
	// Digests are those of the manifests (sha256:…), by platform: linux/amd64 in form.
	Digests map[string]string `json:"digests"`
	Index   string            `json:"index,omitempty"` // digest of the image index over them
	Role    string            `json:"role"`
	Sets    []string          `json:"sets"`
}

// Digest is that of the manifest for the platform this program runs on; "" if the
// release has none for it.
func (i ReleaseImage) Digest() string { return i.Digests[runtime.GOOS+"/"+runtime.GOARCH] }

// EmbeddedRelease is the release this program was built for. The zero Release means
// that it was built for none.
func EmbeddedRelease() (Release, error) {
	r, err := ParseRelease(embedded)
	if err != nil {
		return Release{}, fmt.Errorf("reading the embedded release (this program was built wrongly): %w", err)
	}
	return r, nil
}

// ParseRelease reads a release.json. Unknown keys are errors: a field that is not
// understood could be one that restricts trust.
func ParseRelease(data []byte) (Release, error) {
	var r Release
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&r); err != nil {
		return Release{}, fmt.Errorf("parsing release: %w", err)
	}
	if dec.More() {
		return Release{}, fmt.Errorf("parsing release: something follows the JSON object")
	}
	return r, nil
}

// Image finds the image with the given role.
func (r Release) Image(role string) (ReleaseImage, bool) {
	for _, i := range r.Images {
		if i.Role == role {
			return i, true
		}
	}
	return ReleaseImage{}, false
}
