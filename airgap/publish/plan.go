package publish

import (
	"encoding/json"
	"fmt"
	"slices"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/airgap/registry"
)

// job is one image with all that belongs to it.
type job struct {
	image
	target name.Tag
	called string          // the reference that it has in the end
	blobs  []v1.Descriptor // each once
	said   []said
	refer  []referrer
	stored registry.Outcome // of the manifest that was put last

	mu        sync.Mutex
	published Published
}

type said struct {
	step Step
	st   *statements
}

// plan reads everything small of the source before anything is sent, so that what is
// wrong there is found first.
func (p *publisher) plan() ([]*job, error) {
	images, err := p.src.images(p.Images)
	if err != nil {
		return nil, err
	}
	var jobs []*job
	taken := map[string]*job{}
	for _, i := range images {
		j, err := p.job(i)
		if err != nil {
			return nil, err
		}
		if other, ok := taken[j.called]; ok && other.root.desc.Digest != i.root.desc.Digest {
			return nil, fmt.Errorf("%s and %s would both be %s", other.name, i.name, j.called)
		}
		taken[j.called] = j
		jobs = append(jobs, j)
		for _, b := range j.blobs {
			p.sharers[b.Digest] = append(p.sharers[b.Digest], j)
			// Two tags of one repository share its blobs, but each looks for them.
			p.progress.Total += b.Size
		}
	}
	return jobs, nil
}

func (p *publisher) job(i image) (*job, error) {
	target, err := p.To.Tag(i.name)
	if err != nil {
		return nil, fmt.Errorf("naming %s at %s: %w", i.name, p.To, err)
	}
	j := &job{image: i, target: target, called: target.Name()}
	if i.name.Tag == "" {
		j.called = target.Context().Name() + "@" + i.root.desc.Digest.String()
	}
	j.published = Published{Source: i.name.String(), Kind: kindText(i.kind), Reference: j.called, Digest: i.root.desc.Digest.String()}
	err = i.root.walk(func(n *node) error {
		if n.desc.Platform != nil && len(n.children) == 0 {
			j.published.Platforms = append(j.published.Platforms, n.desc.Platform.String())
		}
		for _, b := range n.blobs {
			if !slices.ContainsFunc(j.blobs, func(o v1.Descriptor) bool { return o.Digest == b.Digest }) {
				j.blobs = append(j.blobs, b)
			}
		}
		return p.gather(j, n)
	})
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", i.name, err)
	}
	// Cosign looks up what the tag names, which is the index where there is one.
	if !j.signed() && !p.AllowUnsigned {
		return nil, fmt.Errorf("image %s has no signature in %s: sign it with rke2-build sign, or pass --allow-unsigned", i.name, p.src.what)
	}
	return j, nil
}

func (j *job) signed() bool {
	return slices.ContainsFunc(j.said, func(s said) bool { return s.step == Signatures && s.st.subject == j.root.desc.Digest })
}

func (p *publisher) gather(j *job, n *node) error {
	for _, kind := range kinds {
		st, err := p.src.statementsOf(n.desc.Digest, kind)
		if err != nil {
			return err
		}
		if st == nil {
			continue
		}
		step := Signatures
		if kind == airgap.KindAttestations {
			step = Attestations
			j.published.Attestations += len(st.layers)
		} else {
			j.published.Signatures += len(st.layers)
		}
		j.said = append(j.said, said{step: step, st: st})
	}
	more, err := p.src.referrersOf(n.desc.Digest)
	j.refer = append(j.refer, more...)
	return err
}

// kindText is what a result calls a kind; nothing of an image.
func kindText(kind string) string {
	switch kind {
	case airgap.KindChart:
		return "chart"
	case airgap.KindFiles:
		return "files"
	}
	return ""
}

// count notes what had to be done for a blob.
func (j *job) count(o registry.Outcome, size int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	switch o {
	case registry.Sent:
		j.published.Blobs.Sent++
		j.published.Sent += size
	case registry.Mounted:
		j.published.Blobs.Mounted++
	case registry.Present:
		j.published.Blobs.Present++
	}
}

// mediaType is what a manifest says of itself.
func mediaType(raw []byte) types.MediaType {
	var m struct {
		MediaType types.MediaType `json:"mediaType"`
	}
	if err := json.Unmarshal(raw, &m); err != nil || m.MediaType == "" {
		return types.OCIManifestSchema1
	}
	return m.MediaType
}
