package closure

import (
	"fmt"
	"strings"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/charts"
)

// chart finds a chart that was packed into a bundle: nil if none has it.
func (s *shelf) chart(ref charts.Ref) (*charts.Chart, error) {
	for _, named := range callings(ref) {
		for _, f := range s.files {
			if f.Archive == nil {
				continue
			}
			for _, a := range f.Archive.Artifacts() {
				i := strings.LastIndex(a.Ref, ":")
				if a.Kind != airgap.KindChart || i < 0 || !named(a.Ref[:i], a.Ref[i+1:]) {
					continue
				}
				c, err := s.load(f.Archive, a)
				if err != nil {
					return nil, fmt.Errorf("chart %s in %s: %w", a.Ref, f.Path, err)
				}
				if ref.Version == "" || c.Matches(ref.Version) {
					return c, nil
				}
			}
		}
	}
	return nil, nil
}

// callings are the names that a bundle may have a chart under, the surest first. Each
// is asked for a repository (REGISTRY/PATH/NAME) and a tag.
func callings(ref charts.Ref) []func(repository, tag string) bool {
	base := func(repository string) string { return repository[strings.LastIndex(repository, "/")+1:] }
	exactly := func(wanted string) func(string, string) bool {
		return func(repository, tag string) bool { return repository == wanted || repository+":"+tag == wanted }
	}
	at, oci := strings.CutPrefix(first(ref.Repo, ref.Chart), "oci://")
	switch {
	case oci && ref.Repo != "":
		return []func(string, string) bool{exactly(strings.TrimSuffix(at, "/") + "/" + ref.Chart)}
	case oci:
		return []func(string, string) bool{exactly(at)}
	case ref.Repo != "":
		_, host, _ := strings.Cut(ref.Repo, "://")
		return []func(string, string) bool{
			exactly(strings.TrimSuffix(host, "/") + "/" + ref.Chart),
			func(repository, _ string) bool { return base(repository) == ref.Chart },
		}
	}
	file := strings.TrimSuffix(ref.Chart[strings.LastIndex(ref.Chart, "/")+1:], ".tgz") // of https://…/name-version.tgz
	return []func(string, string) bool{func(repository, tag string) bool {
		return file == base(repository)+"-"+tag || file == base(repository)+"-"+strings.ReplaceAll(tag, "_", "+")
	}}
}

func (s *shelf) load(a *airgap.Archive, art airgap.Artifact) (*charts.Chart, error) {
	m, _, err := a.Manifest(art.Desc.Digest)
	if err != nil {
		return nil, err
	}
	for _, l := range m.Layers {
		if l.MediaType != charts.ContentMediaType {
			continue
		}
		r, err := s.open(l.Digest, a)
		if err != nil {
			return nil, err
		}
		defer r.Close()
		return charts.Read(r, a.Path()+": "+art.Ref)
	}
	return nil, charts.ErrNotChart
}
