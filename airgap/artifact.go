package airgap

import (
	"errors"
	"fmt"
	"path"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Kinds of what a bundle holds beside images, as AnnotationKind says it. Other tools
// see OCI artifacts (https://github.com/opencontainers/image-spec/blob/main/manifest.md)
// that only index.json names: nodes' containerd must not list them as images.
const (
	// KindChart is a Helm chart in Helm's own OCI form.
	KindChart = "io.rancher.rke2/chart"
	// KindFiles is a set of plain files, each a layer with its path as title.
	KindFiles = "io.rancher.rke2/files"
)

// Media types of charts (Helm's) and of sets of files.
const (
	TypeChartConfig     = "application/vnd.cncf.helm.config.v1+json"
	TypeChartContent    = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
	TypeChartProvenance = "application/vnd.cncf.helm.chart.provenance.v1.prov"
	// TypeFiles is the artifactType of a set of files.
	TypeFiles = "application/vnd.rancher.rke2.files.v1"
	// AnnotationTitle of a file's layer is its path: relative, with slashes, clean.
	AnnotationTitle = "org.opencontainers.image.title"
)

// Artifact is a chart or a set of files in a bundle.
type Artifact struct {
	// Kind is KindChart or KindFiles.
	Kind string
	// Ref is its full reference: REGISTRY/PATH/NAME:VERSION for a chart, with a
	// registry or without for files.
	Ref string
	// Desc describes its manifest.
	Desc v1.Descriptor
	// Sets are the sets it belongs to.
	Sets []string
}

// key orders a bundle's artifacts.
func (a Artifact) key() string { return a.Kind + " " + a.Ref }

func isArtifact(kind string) bool { return kind == KindChart || kind == KindFiles }

// Artifacts lists the charts and sets of files of a bundle, by kind and reference. The
// caller must not change them.
func (a *Archive) Artifacts() []Artifact { return a.artifacts }

// parseArtifact reads the descriptor of a chart or a set of files in a bundle's index.
func parseArtifact(d v1.Descriptor) (Artifact, error) {
	out := Artifact{
		Kind: d.Annotations[AnnotationKind], Ref: d.Annotations[AnnotationRefName],
		Sets: SetsOf(d), Desc: bare(d),
	}
	tag, err := ParseTag(out.Ref)
	switch {
	case err != nil:
		return out, err
	case out.Kind == KindChart && tag.String() != out.Ref:
		return out, fmt.Errorf("its name %q is not one full reference", out.Ref)
	case strings.Join(out.Sets, ",") != d.Annotations[AnnotationSets]:
		return out, errors.New("its sets are not in order")
	case d.Annotations[AnnotationImageName] != "":
		return out, errors.New("it has the name of an image and is none")
	}
	return out, nil
}

// CheckArtifact holds a manifest, as its bytes and decoded, to the form of a kind: a
// chart's config and one archive; files' type, and titles that stay below the folder
// that they are extracted into, each once.
func CheckArtifact(kind string, m *v1.Manifest, raw []byte) error {
	switch kind {
	case KindChart:
		return checkChart(m)
	case KindFiles:
		return checkFiles(m, raw)
	}
	return fmt.Errorf("%q is not a kind of artifact", kind)
}

func checkChart(m *v1.Manifest) error {
	if m.Config.MediaType != TypeChartConfig {
		return fmt.Errorf("%w: a chart whose config is of type %s, not %s", ErrDamaged, printable(string(m.Config.MediaType)), TypeChartConfig)
	}
	content := 0
	for _, l := range m.Layers {
		switch l.MediaType {
		case TypeChartContent:
			content++
		case TypeChartProvenance:
		default:
			return fmt.Errorf("%w: a chart with a layer of type %s", ErrDamaged, printable(string(l.MediaType)))
		}
	}
	if content != 1 {
		return fmt.Errorf("%w: a chart with %d archives instead of one", ErrDamaged, content)
	}
	return nil
}

func checkFiles(m *v1.Manifest, raw []byte) error {
	var is struct {
		ArtifactType string `json:"artifactType"`
	}
	if err := unmarshal(raw, &is, "manifest"); err != nil {
		return err
	}
	if is.ArtifactType != TypeFiles {
		return fmt.Errorf("%w: files of the artifact type %s, not %s", ErrDamaged, printable(is.ArtifactType), TypeFiles)
	}
	seen := map[string]bool{}
	for _, l := range m.Layers {
		title := l.Annotations[AnnotationTitle]
		if title == "" || title == "." || path.Clean(title) != title || path.IsAbs(title) || title == ".." ||
			strings.HasPrefix(title, "../") || strings.ContainsAny(title, "\\\x00") {
			return fmt.Errorf("%w: a file called %s: a clean path below a folder is needed", ErrRefusedContent, printable(title))
		}
		if seen[title] {
			return fmt.Errorf("%w: the file %s is in it twice", ErrRefusedContent, printable(title))
		}
		seen[title] = true
	}
	for title := range seen {
		for dir := path.Dir(title); dir != "."; dir = path.Dir(dir) {
			if seen[dir] {
				return fmt.Errorf("%w: %s is a file and a folder", ErrRefusedContent, printable(dir))
			}
		}
	}
	return nil
}
