package preflight

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/runtime/config"
	"github.com/rancher/rke2/runtime/scan"
)

// Need is an image that a node itself runs.
type Need struct {
	What string // the component, or several
	Role string // of the image, as config.Config has it
	Ref  name.Reference
	// Candidates are the names under which a bundle may have it.
	Candidates []name.Reference
}

// Needs lists the images that a node cannot run without, the node's executables first. A
// role that the release does not name is left out: config.Config.Check reports it.
func Needs(c config.Config) []Need {
	out := add(nil, c, "executables", config.RoleRuntime)
	out = add(out, c, "sandbox of every pod", config.RolePause)
	for _, component := range c.Components() {
		out = add(out, c, component, c.ComponentRole(component))
	}
	return out
}

func add(needs []Need, c config.Config, what, role string) []Need {
	ref, err := c.Image(role)
	if err != nil {
		return needs
	}
	candidates, err := c.Candidates(role)
	if err != nil {
		return needs
	}
	for i, n := range needs {
		if n.Ref.String() == ref.String() {
			needs[i].What += ", " + what
			return needs
		}
	}
	return append(needs, Need{What: what, Role: role, Ref: ref, Candidates: candidates})
}

// Source says where a node has an image from.
type Source struct {
	Need
	File   string // the bundle that has it; "" if none
	By     string // why it is trusted
	Stored bool   // no bundle has it, but the node has it from before
	Err    error  // why the bundles that have it cannot be used
}

// Sources looks for each image that the node needs.
func Sources(in Input) []Source {
	var out []Source
	for _, n := range Needs(in.Config) {
		out = append(out, source(in, n))
	}
	return out
}

func source(in Input, n Need) Source {
	s := Source{Need: n}
	found, err := in.Folder.FindAll(n.Candidates...)
	if err != nil {
		s.Stored = kept(in, n)
		return s
	}
	var faults []error
	for _, f := range found {
		if in.Starting && f.File.Archive.Compression() != "none" && f.Image.Desc.Digest == pinned(in, n) && kept(in, n) {
			// Its signature is behind all that is compressed, and it is not read again.
			s.File, s.By = f.File.Path, "kept from an earlier start"
			return s
		}
		by, err := usable(in, f)
		if err == nil {
			s.File, s.By = f.File.Path, by
			return s
		}
		faults = append(faults, fmt.Errorf("%s: %w", filepath.Base(f.File.Path), err))
	}
	s.Err = errors.Join(faults...)
	if s.Stored = kept(in, n); s.Stored {
		s.Err = nil
	}
	return s
}

// usable asks the policy about an image of a bundle, and looks for its layers if the
// bundle says that it lacks some.
func usable(in Input, f scan.Found) (by string, err error) {
	a := f.File.Archive
	if a.Format() == airgap.FormatDockerArchive {
		return "docker save", nil // the importer decides
	}
	image := f.Image
	image.Refs, image.Digests = nil, nil
	switch ref := f.Ref.(type) {
	case name.Tag:
		image.Refs = []name.Tag{ref}
	case name.Digest:
		image.Digests = []name.Digest{ref}
	}
	admitted, err := in.Admit(a, image)
	if err != nil {
		return "", err
	}
	if _, partial := a.Partial(); partial {
		layers, config := contents(a, image)
		for i, l := range append(layers, config) {
			if holder, _ := in.Folder.Holder(l.Digest); holder == nil && !storedFile(in, l) {
				err := fmt.Errorf("layer %d of %d of %s is in no bundle", i+1, len(layers), f.Ref)
				if missing := in.Folder.Missing(a); missing != nil {
					err = fmt.Errorf("%w: %w", err, missing)
				}
				return "", err
			}
		}
	}
	return admitted.By(), nil
}

func pinned(in Input, n Need) v1.Hash {
	digest, _ := in.Pinned(n)
	return digest
}

// kept tells whether the node has, from an earlier start, exactly the image that the
// release pins: staged if it is the runtime, whole in containerd's store if not.
func kept(in Input, n Need) bool {
	digest, ok := in.Pinned(n)
	if !ok {
		return false
	}
	if tag, ok := n.Ref.(name.Tag); ok && n.Role == config.RoleRuntime {
		return isStaged(in, tag.TagStr()+"-"+digest.Hex[:12])
	}
	raw, err := os.ReadFile(filepath.Join(store(in.Config), digest.Hex))
	var m v1.Manifest
	if err != nil || json.Unmarshal(raw, &m) != nil || len(m.Layers) == 0 {
		return false
	}
	for _, d := range append(m.Layers, m.Config) {
		if !storedFile(in, d) {
			return false
		}
	}
	return true
}

// here tells whether an image is for this machine, as far as its archive says.
func here(image airgap.Image) bool {
	p := image.Platform
	return p == nil || p.OS == "linux" && p.Architecture == runtime.GOARCH
}

// Images looks for each image that the node itself runs: without one of them it would
// stop what runs and then not come up.
func Images(in Input) Check {
	const check = "images"
	sources := Sources(in)
	if in.Starting {
		sources = slices.DeleteFunc(sources, func(s Source) bool { return staged(in, s) })
	}
	var missing, refused []Source
	var bundles []string
	stored := 0
	for _, s := range sources {
		switch {
		case s.Err != nil:
			refused = append(refused, s)
		case s.File == "" && !s.Stored:
			missing = append(missing, s)
		case s.Stored:
			stored++
		case !slices.Contains(bundles, filepath.Base(s.File)):
			bundles = append(bundles, filepath.Base(s.File))
		}
	}
	c := ok(check, "%s that this node needs: in %s", plural(len(sources), "image"), and(bundles))
	if stored > 0 {
		c.Found = fmt.Sprintf("%s that this node needs: %d in %s, %d kept from an earlier start", plural(len(sources), "image"), len(sources)-stored, plural(len(bundles), "bundle"), stored)
	}
	if len(missing) > 0 {
		c.Verdict = Warn
		c.Found, c.Details = lacking(missing, len(sources))
		c.Details = append(c.Details, where(in.Folder, missing)...)
		c.ToDo = "copy the rke2-images-core bundle of exactly this version into " + in.Folder.Dir
		if in.Config.Offline {
			c.Verdict = Fail
			c.Details = append(c.Details, "offline is set: no registry is asked")
		} else {
			c.Details = append(c.Details, "offline is not set: registries are asked; rke2 doctor --dial tells whether they have it")
		}
	}
	if len(refused) > 0 {
		refuse(&c, refused)
	}
	return c
}

// refuse adds images that bundles have and that cannot be used. What might be pulled is
// not worth a word then.
func refuse(c *Check, refused []Source) {
	var names, why []string
	for _, s := range refused {
		names = append(names, s.Ref.String())
		why = append(why, fmt.Sprintf("%s (%s): %v", s.Ref, s.What, s.Err))
	}
	found := "cannot be used: " + and(names)
	todo := "copy the bundle again, from where it was verified; rke2 bundle verify says what is wrong with it"
	if c.Verdict == Fail {
		found, why, todo = c.Found+"; "+found, append(c.Details, why...), c.ToDo+"; "+todo
	}
	c.Verdict, c.Found, c.Details, c.ToDo = Fail, found, why, todo
}

// staged tells whether the phase that stages the runtime is to decide: where a bundle's is
// refused, or the release does not pin it, it may stay with what an earlier start staged.
func staged(in Input, s Source) bool {
	if s.Role != config.RoleRuntime || s.File != "" {
		return false
	}
	if _, pinned := in.Pinned(s.Need); pinned && s.Err == nil {
		return false
	}
	entries, err := os.ReadDir(filepath.Join(in.Config.DataDir, "data"))
	return err == nil && slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.IsDir() && !strings.HasPrefix(e.Name(), ".") })
}

// lacking names what is missing.
func lacking(missing []Source, of int) (found string, details []string) {
	for _, s := range missing {
		details = append(details, fmt.Sprintf("no bundle has the image %s (%s)", s.Ref, s.What))
	}
	if len(missing) == 1 {
		return details[0], nil
	}
	return fmt.Sprintf("no bundle has %d of the %s that this node needs", len(missing), plural(of, "image")), details
}

// where says what was looked at, and what is there instead.
func where(f *scan.Folder, missing []Source) []string {
	looked := "looked in: " + f.Dir
	switch {
	case !f.Exists:
		looked += " (the folder does not exist)"
	case len(f.Files) == 0:
		looked += " (no *.tar, *.tar.zst, *.tar.gz or the like is in it)"
	}
	out := []string{looked}
	for _, file := range f.Files {
		base := filepath.Base(file.Path)
		if file.Err != nil {
			out = append(out, fmt.Sprintf("%s: cannot be read: %v", base, file.Err))
			continue
		}
		if near := near(file, missing); len(near) > 0 {
			out = append(out, fmt.Sprintf("%s: has %s", base, strings.Join(near, ", ")))
			continue
		}
		out = append(out, fmt.Sprintf("%s: %s, none of them wanted", base, plural(len(file.Archive.Images()), "image")))
	}
	for _, path := range f.Other {
		if ext := strings.ToLower(filepath.Ext(path)); ext != ".txt" && ext != ".json" {
			out = append(out, fmt.Sprintf("%s: not looked at (its name does not end like a bundle's)", filepath.Base(path)))
		}
	}
	return out
}

// near lists a file's images of the repositories that are wanted, with another tag,
// registry or platform.
func near(file scan.File, missing []Source) []string {
	var out []string
	for _, image := range file.Archive.Images() {
		for _, ref := range image.Refs {
			if !slices.ContainsFunc(missing, func(s Source) bool { return s.Ref.Context().RepositoryStr() == ref.RepositoryStr() }) {
				continue
			}
			text := ref.String() + " (another tag)"
			if p := image.Platform; !here(image) {
				text = fmt.Sprintf("%s (for %s/%s)", ref, p.OS, p.Architecture)
			}
			if !slices.Contains(out, text) {
				out = append(out, text)
			}
		}
	}
	slices.Sort(out)
	return out
}
