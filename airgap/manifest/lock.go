package manifest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// lockVersion is the format of locks that this version writes and reads.
const lockVersion = 1

// Lock keeps what a bundle's names meant when they were resolved, so that the same bundle
// can be made again after tags have moved, and with no registry once its blobs are
// in the cache. Everything in it is sorted.
type Lock struct {
	Version int `json:"lockVersion"`
	// Inputs is the digest of what was asked for; a lock is stale when that has changed.
	Inputs    string         `json:"inputs"`
	Platforms []string       `json:"platforms"`
	Images    []LockedImage  `json:"images,omitempty"`
	Charts    []LockedChart  `json:"charts,omitempty"`
	Content   []LockedDigest `json:"content,omitempty"`
}

// LockedImage is what one reference meant.
type LockedImage struct {
	Image string `json:"image"` // full reference, with tag, digest or both
	// Root is the image's manifest, or its image index.
	Root v1.Descriptor `json:"root"`
	// Manifests has the manifest of each platform.
	Manifests map[string]v1.Descriptor `json:"manifests"`
	// Attached are signatures, attestations and what else refers to those.
	Attached []LockedAttachment `json:"attached,omitempty"`
}

// LockedAttachment is a manifest that is about another.
type LockedAttachment struct {
	Kind       string        `json:"kind"` // as in a bundle's index
	Subject    v1.Hash       `json:"subject"`
	Descriptor v1.Descriptor `json:"manifest"`
}

// LockedChart is a chart and the images that rendering it showed.
type LockedChart struct {
	Chart   string `json:"chart"` // as it was asked for
	Name    string `json:"name"`
	Version string `json:"version"`
	Source  string `json:"source"` // where it came from
	// Manifest is the chart's as an OCI artifact.
	Manifest v1.Descriptor      `json:"manifest"`
	Images   []string           `json:"images,omitempty"`
	Attached []LockedAttachment `json:"attached,omitempty"`
}

// LockedDigest is the digest of something on this machine: a file, or an image of a
// layout or an archive.
type LockedDigest struct {
	What   string `json:"what"`
	Digest string `json:"digest"`
}

// StaleError says that a lock does not fit what is to be bundled, and how.
type StaleError struct {
	File    string
	Changes []string
}

// Error implements error.
func (e *StaleError) Error() string {
	return fmt.Sprintf("the lock %s is stale:\n  %s\n  to do: if that is meant, run the same command with --update-lock",
		e.File, strings.Join(e.Changes, "\n  "))
}

// ReadLock reads a lock. One that is not there is an [fs.ErrNotExist].
func ReadLock(file string) (*Lock, error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading the lock: %w: make it with --update-lock", err)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the lock: %w", err)
	}
	l := &Lock{}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(l); err != nil {
		line := 1 + bytes.Count(data[:min(int(dec.InputOffset()), len(data))], []byte("\n"))
		return nil, fmt.Errorf("%s:%d: not a lock: %w: make it again with --update-lock", file, line, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: something follows the lock: make it again with --update-lock", file)
	}
	if l.Version != lockVersion {
		return nil, fmt.Errorf("%s: lock version %d is not known to this version, which reads %d: make it again with --update-lock", file, l.Version, lockVersion)
	}
	return l, l.check(file)
}

func (l *Lock) check(file string) error {
	bad := func(what string, d v1.Descriptor) error {
		if d.Digest.Algorithm != "sha256" || len(d.Digest.Hex) != sha256.Size*2 || d.Size <= 0 {
			return fmt.Errorf("%s: %s has no digest or size: make the lock again with --update-lock", file, what)
		}
		return nil
	}
	for _, c := range l.Charts {
		if err := bad("chart "+c.Chart, c.Manifest); err != nil {
			return err
		}
	}
	for _, i := range l.Images {
		err := bad(i.Image, i.Root)
		for p, d := range i.Manifests {
			err = errors.Join(err, bad(i.Image+" for "+p, d))
		}
		for _, a := range i.Attached {
			err = errors.Join(err, bad("what is attached to "+i.Image, a.Descriptor))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Bytes are the lock as it is written.
func (l *Lock) Bytes() ([]byte, error) {
	l.Version = lockVersion
	l.sort()
	b, err := json.MarshalIndent(l, "", "  ")
	return append(b, '\n'), err
}

func (l *Lock) sort() {
	slices.Sort(l.Platforms)
	slices.SortFunc(l.Images, func(a, b LockedImage) int { return strings.Compare(a.Image, b.Image) })
	key := func(a LockedAttachment) string { return a.Subject.Hex + a.Kind + a.Descriptor.Digest.Hex }
	byKey := func(a, b LockedAttachment) int { return strings.Compare(key(a), key(b)) }
	for i := range l.Images {
		slices.SortFunc(l.Images[i].Attached, byKey)
	}
	for i := range l.Charts {
		slices.SortFunc(l.Charts[i].Attached, byKey)
	}
	slices.SortFunc(l.Charts, func(a, b LockedChart) int { return strings.Compare(a.Chart, b.Chart) })
	slices.SortFunc(l.Content, func(a, b LockedDigest) int { return strings.Compare(a.What, b.What) })
}

// Write writes the lock; it appears whole.
func (l *Lock) Write(file string) (err error) {
	data, err := l.Bytes()
	if err != nil {
		return fmt.Errorf("writing the lock %s: %w", file, err)
	}
	if there, err := os.ReadFile(file); err == nil && bytes.Equal(there, data) {
		return nil
	}
	tmp, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".*")
	if err != nil {
		return fmt.Errorf("writing the lock: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("writing the lock %s: %w", file, err), os.Remove(tmp.Name()))
		}
	}()
	_, err = tmp.Write(data)
	if err = errors.Join(err, tmp.Chmod(0o644), tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), file)
}

// InputsDigest is the digest of what was asked for, whatever its order.
func InputsDigest(platforms, asked []string) string {
	h := sha256.New()
	for _, list := range [][]string{platforms, asked} {
		list = slices.Clone(list)
		slices.Sort(list)
		for _, s := range slices.Compact(list) {
			fmt.Fprintf(h, "%d:%s\n", len(s), s)
		}
		fmt.Fprintln(h)
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

// Image finds what a reference meant.
func (l *Lock) Image(ref string) (LockedImage, bool) {
	i := slices.IndexFunc(l.Images, func(i LockedImage) bool { return i.Image == ref })
	if i < 0 {
		return LockedImage{}, false
	}
	return l.Images[i], true
}

// Chart finds a chart by what it was asked for as.
func (l *Lock) Chart(asked string) (LockedChart, bool) {
	i := slices.IndexFunc(l.Charts, func(c LockedChart) bool { return c.Chart == asked })
	if i < 0 {
		return LockedChart{}, false
	}
	return l.Charts[i], true
}

// Changes tells what differs between a lock and what is found now.
func (l *Lock) Changes(now *Lock) []string {
	var out []string
	if !slices.Equal(l.Platforms, now.Platforms) {
		out = append(out, fmt.Sprintf("platforms: %s locked, %s now", strings.Join(l.Platforms, ", "), strings.Join(now.Platforms, ", ")))
	}
	compare := func(kind string, was, is map[string]string) {
		for _, k := range sortedKeys(was, is) {
			a, b := was[k], is[k]
			switch {
			case a == b:
			case a == "":
				out = append(out, fmt.Sprintf("%s %s: new, not in the lock", kind, k))
			case b == "":
				out = append(out, fmt.Sprintf("%s %s: no longer asked for", kind, k))
			default:
				out = append(out, fmt.Sprintf("%s %s: %s locked, %s now", kind, k, a, b))
			}
		}
	}
	compare("image", l.images(), now.images())
	compare("chart", l.charts(), now.charts())
	compare("", l.content(), now.content())
	for i := range out {
		out[i] = strings.TrimSpace(out[i])
	}
	if len(out) == 0 && l.Inputs != now.Inputs {
		out = append(out, "what is asked for, and how, is not what it was locked for (values of a chart, sets, names)")
	}
	return out
}

func (l *Lock) images() map[string]string {
	out := map[string]string{}
	for _, i := range l.Images {
		out[i.Image] = i.Root.Digest.String()
	}
	return out
}

func (l *Lock) charts() map[string]string {
	out := map[string]string{}
	for _, c := range l.Charts {
		out[c.Chart] = fmt.Sprintf("%s %s %s", c.Name, c.Version, c.Manifest.Digest)
	}
	return out
}

func (l *Lock) content() map[string]string {
	out := map[string]string{}
	for _, c := range l.Content {
		out[c.What] = c.Digest
	}
	return out
}

func sortedKeys(maps ...map[string]string) []string {
	var keys []string
	for _, m := range maps {
		for k := range m {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}
