package node

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/rancher/rke2/runtime/config"
	"github.com/rancher/rke2/runtime/imageimport"
)

// wantedImage is one that the node itself needs.
type wantedImage struct {
	item *imageimport.Item // nil if no bundle has it: it is there, or the runtime will pull it
	refs []string          // names that wait for it
}

// wantedName is what the node calls an image that it needs.
type wantedName struct {
	what  string
	image func() (name.Reference, error)
	role  string
}

// needs are the images that containers of the node itself are made of, in the order in
// which it needs them.
func needs(c config.Config) []wantedName {
	order := []wantedName{{"the sandbox image", func() (name.Reference, error) { return c.Image(config.RolePause) }, config.RolePause}}
	for _, component := range c.Components() {
		order = append(order, wantedName{component, func() (name.Reference, error) { return c.ComponentImage(component) }, c.ComponentRole(component)})
	}
	return order
}

// split orders what the node itself needs before everything else.
func (c *Content) split(ctx context.Context, importer *imageimport.Importer, items []imageimport.Item, refused map[string]error) (control []wantedImage, rest []imageimport.Item, err error) {
	used := map[int]bool{}
	for _, w := range needs(c.config) {
		wanted, err := w.image()
		if err != nil {
			return nil, nil, err
		}
		candidates, err := c.config.Candidates(w.role)
		if err != nil {
			return nil, nil, err
		}
		at := slices.IndexFunc(items, func(i imageimport.Item) bool { return fits(i, candidates) })
		if at < 0 {
			if err := c.absent(w.what, candidates, refused); err != nil && !c.kept(ctx, importer, candidates) {
				return nil, nil, err
			}
			control = append(control, wantedImage{refs: []string{wanted.String()}})
			continue
		}
		if used[at] {
			control = append(control, wantedImage{refs: []string{wanted.String()}})
			continue
		}
		used[at] = true
		control = append(control, wantedImage{item: &items[at], refs: []string{wanted.String()}})
	}
	for at, item := range items {
		if !used[at] {
			rest = append(rest, item)
		}
	}
	return control, rest, nil
}

// fits tells whether containerd will have an item under one of the names.
func fits(i imageimport.Item, candidates []name.Reference) bool {
	return slices.ContainsFunc(candidates, func(c name.Reference) bool {
		return c.String() == i.Admitted.Name() ||
			c.Context().Name() == i.Admitted.Repository().Name() && c.Identifier() == i.Admitted.Digest().String()
	})
}

// kept tells whether containerd has an image that the release pins, whole and under one
// of its names: an earlier start imported it, and its bundle was removed since.
func (c *Content) kept(ctx context.Context, importer *imageimport.Importer, candidates []name.Reference) bool {
	held, err := importer.Held(ctx)
	if err != nil {
		return false
	}
	for _, candidate := range candidates {
		tag, ok := candidate.(name.Tag)
		if !ok {
			continue
		}
		admitted, pinned := c.policy.Pinned(tag)
		image, has := held[candidate.String()]
		if pinned && has && image.Whole && image.Digest.String() == admitted.Digest().String() {
			return true
		}
	}
	return false
}

// systemNames are all names of the images that the node itself needs and whose digest the
// release says: they stay pinned also when their bundle is gone, or the node could not
// start again.
func (c *Content) systemNames(importer *imageimport.Importer) []string {
	var out []string
	for _, w := range needs(c.config) {
		candidates, err := c.config.Candidates(w.role)
		if err != nil {
			continue // a start would have failed
		}
		for _, candidate := range candidates {
			if tag, ok := candidate.(name.Tag); ok {
				if admitted, pinned := c.policy.Pinned(tag); pinned {
					out = append(out, importer.Called(tag, admitted.Digest().String())...)
				}
			}
		}
	}
	return out
}

// absent decides what it means that no bundle offers an image which the node
// needs: fatal if it was refused or nothing may be pulled.
func (c *Content) absent(what string, candidates []name.Reference, refused map[string]error) error {
	for _, candidate := range candidates {
		err := refused[candidate.String()]
		var incomplete *imageimport.AbsentError
		switch {
		case errors.As(err, &incomplete):
			return fmt.Errorf("%s cannot start: its image is not complete: %w", what, err)
		case err != nil:
			return fmt.Errorf("%s cannot start: its image %s is refused: %w", what, candidate.String(), err)
		}
	}
	if !c.config.Offline {
		return nil
	}
	_, err := c.folder.Find(candidates...)
	return fmt.Errorf("%s cannot start: %w\n  offline is set: no registry is asked", what, err)
}
