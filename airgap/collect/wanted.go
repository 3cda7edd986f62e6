package collect

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/name"
)

// wanted is an image that is to come from a registry.
type wanted struct {
	ref    string // in full: docker.io/library/busybox:1.36
	repo   name.Repository
	tag    string
	digest string
	why    []string // who asked for it
}

// parseWanted reads a reference as people write it: with a tag, a digest, both, or
// neither, which means the tag latest.
func parseWanted(s, why string) (*wanted, error) {
	named, err := reference.ParseNormalizedNamed(strings.TrimPrefix(s, "docker://"))
	if err != nil {
		return nil, fmt.Errorf("image %q: %w", s, err)
	}
	named = reference.TagNameOnly(named)
	repo, err := name.NewRepository(named.Name(), name.StrictValidation)
	if err != nil {
		return nil, fmt.Errorf("image %q: %w", s, err)
	}
	w := &wanted{ref: named.String(), repo: repo, why: []string{why}}
	if t, ok := named.(reference.Tagged); ok {
		w.tag = t.Tag()
	}
	if d, ok := named.(reference.Digested); ok {
		if w.digest = d.Digest().String(); d.Digest().Algorithm() != "sha256" {
			return nil, fmt.Errorf("image %q: only sha256 digests are known", s)
		}
	}
	return w, nil
}

// reference is what the registry is asked for: the digest, if there is one.
func (w *wanted) reference() string {
	if w.digest != "" {
		return w.digest
	}
	return w.tag
}

// names are what the image is called in the bundle: pods name images by tag, by digest,
// or by both, of which the digest is what counts.
func (w *wanted) names() []string {
	repo := strings.Replace(w.repo.Name(), name.DefaultRegistry, "docker.io", 1)
	var out []string
	if w.tag != "" {
		out = append(out, repo+":"+w.tag)
	}
	if w.digest != "" {
		out = append(out, repo+"@"+w.digest)
	}
	return out
}

// wants gathers references; each is wanted once, for however many reasons.
type wants struct {
	all   []*wanted
	byRef map[string]*wanted
}

func (w *wants) add(s, why string) error {
	one, err := parseWanted(s, why)
	if err != nil {
		return fmt.Errorf("%s: %w", why, err)
	}
	if w.byRef == nil {
		w.byRef = map[string]*wanted{}
	}
	if there, ok := w.byRef[one.ref]; ok {
		if !slices.Contains(there.why, why) {
			there.why = append(there.why, why)
		}
		return nil
	}
	w.byRef[one.ref] = one
	w.all = append(w.all, one)
	return nil
}

// list reads a file of references, one a line. Blank lines, and what follows a #, are
// left out.
func (w *wants) list(file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("reading an image list: %w", err)
	}
	found := 0
	sc := bufio.NewScanner(bytes.NewReader(b))
	for n := 1; sc.Scan(); n++ {
		line, _, _ := strings.Cut(sc.Text(), "#")
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		found++
		if err := w.add(line, fmt.Sprintf("%s:%d", file, n)); err != nil {
			return err
		}
	}
	if err := sc.Err(); err != nil {
		return fmt.Errorf("reading the image list %s: %w", file, err)
	}
	if found == 0 {
		return fmt.Errorf("the image list %s names no image", file)
	}
	return nil
}

// sorted is the same whatever the order in which they were asked for.
func (w *wants) sorted() []*wanted {
	slices.SortFunc(w.all, func(a, b *wanted) int { return strings.Compare(a.ref, b.ref) })
	for _, one := range w.all {
		slices.Sort(one.why)
	}
	return w.all
}
