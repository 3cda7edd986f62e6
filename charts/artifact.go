package charts

import (
	"encoding/json"
	"fmt"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Media types of a chart in a registry, as Helm's specification of OCI charts has them.
const (
	ConfigMediaType  types.MediaType = "application/vnd.cncf.helm.config.v1+json"
	ContentMediaType types.MediaType = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
	proofMediaType   types.MediaType = "application/vnd.cncf.helm.chart.provenance.v1.prov"
)

// Artifact is a chart in the form that registries keep it in: an OCI image manifest,
// its config, and layers, of which the chart's archive is one.
type Artifact struct {
	Manifest []byte
	Config   []byte
	Layers   []Layer
}

// Layer is one layer's bytes and what the manifest says of them.
type Layer struct {
	Desc v1.Descriptor
	Data []byte
}

// Digest is that of the manifest: what signatures are about.
func (a Artifact) Digest() v1.Hash { return digest(a.Manifest) }

// Artifact is the chart as an OCI artifact. What came from a registry is given as the
// registry had it, so that signatures of it hold; else it is made, without a date.
func (c *Chart) Artifact() (Artifact, error) {
	if c.artifact != nil {
		return *c.artifact, nil
	}
	config, err := json.Marshal(c.metadata)
	if err != nil {
		return Artifact{}, fmt.Errorf("packing chart %s: %w", c.Name, err)
	}
	layer := v1.Descriptor{MediaType: ContentMediaType, Size: int64(len(c.archive)), Digest: c.Digest()}
	annotations := map[string]string{
		"org.opencontainers.image.title":   c.Name,
		"org.opencontainers.image.version": c.Version,
	}
	if c.metadata.Description != "" {
		annotations["org.opencontainers.image.description"] = c.metadata.Description
	}
	manifest, err := json.Marshal(v1.Manifest{
		SchemaVersion: 2,
		MediaType:     types.OCIManifestSchema1,
		Config:        v1.Descriptor{MediaType: ConfigMediaType, Size: int64(len(config)), Digest: digest(config)},
		Layers:        []v1.Descriptor{layer},
		Annotations:   annotations,
	})
	if err != nil {
		return Artifact{}, fmt.Errorf("packing chart %s: %w", c.Name, err)
	}
	return Artifact{Manifest: manifest, Config: config, Layers: []Layer{{layer, c.archive}}}, nil
}

// Tag is the chart's version as a tag, in which there is no "+".
func (c *Chart) Tag() string { return strings.ReplaceAll(c.Version, "+", "_") }
