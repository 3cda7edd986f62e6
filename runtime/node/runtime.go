package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/airgap/trust"
	"github.com/rancher/rke2/runtime/config"
	"github.com/rancher/rke2/runtime/packaged"
	"github.com/rancher/rke2/runtime/scan"
	"github.com/rancher/rke2/runtime/stage"
	"github.com/rancher/rke2/runtime/timeline"
)

// bootstrap gets one node its executables.
type bootstrap struct {
	config config.Config
	policy trust.Policy
	folder *scan.Folder
	log    *slog.Logger
	wanted []name.Reference // the runtime image's names, in the order in which they are looked for
	faults []error          // why a bundle's image is not used
}

// runtimeRoot finds, verifies and stages the runtime image and switches to it. What an
// earlier start staged and is unchanged is used as it is, if it is known to be the right
// one; else the image comes from a bundle, from what was staged, from containerd's store
// or from a registry, in this order. Whatever fails, what was staged before stays. A
// server's charts are delivered.
func runtimeRoot(ctx context.Context, c config.Config, policy trust.Policy, folder *scan.Folder, log *slog.Logger) (stage.Root, packaged.Delivery, error) {
	b := &bootstrap{config: c, policy: policy, folder: folder, log: log}
	var err error
	if b.wanted, err = c.Candidates(config.RoleRuntime); err != nil {
		return stage.Root{}, packaged.Delivery{}, err
	}
	var delivered packaged.Delivery
	root, err := b.find(ctx)
	if err == nil {
		delivered, err = deliverCharts(root, c, log)
	}
	if err == nil {
		err = b.activate(root)
	}
	if err != nil {
		return stage.Root{}, packaged.Delivery{}, errors.Join(err, b.wayBack())
	}
	return root, delivered, nil
}

func (b *bootstrap) find(ctx context.Context) (stage.Root, error) {
	before := b.staged(ctx)
	for _, d := range before {
		if d.whole != nil {
			timeline.Of(ctx).Mark(timeline.Verify)
			return *d.whole, nil
		}
	}
	found, err := b.folder.FindAll(b.wanted...)
	var missing *scan.NotFoundError
	if err != nil && !errors.As(err, &missing) {
		return stage.Root{}, err
	}
	for _, f := range found {
		b.log.Info("found the runtime image", "image", f.Ref.String(), "digest", f.Image.Desc.Digest.String(), "file", f.File.Path)
		root, err := b.fromBundle(ctx, f)
		if err == nil {
			return root, nil
		}
		if ctx.Err() != nil || errors.Is(err, stage.ErrTarget) {
			return stage.Root{}, err // another bundle would not help
		}
		b.log.Error("a bundle's runtime image is not used", "file", f.File.Path, "error", err)
		b.faults = append(b.faults, err)
	}
	// Nothing that came with a bundle: what containerd has of an image that was staged.
	for _, d := range before {
		root, err := b.fromStore(ctx, d.image)
		if err == nil {
			return root, nil
		}
		if ctx.Err() != nil || errors.Is(err, stage.ErrTarget) {
			return stage.Root{}, err
		}
		if !errors.Is(err, fs.ErrNotExist) {
			b.faults = append(b.faults, err)
		}
	}
	if len(found) > 0 {
		return stage.Root{}, errors.Join(b.faults...)
	}
	if b.config.Offline {
		return stage.Root{}, errors.Join(fmt.Errorf("%w\n  offline is set: no registry is asked", missing), errors.Join(b.faults...))
	}
	b.log.Warn(missing.Error())
	root, err := b.fromRegistry(ctx)
	if err != nil {
		err = errors.Join(errors.Join(b.faults...), err)
		return root, fmt.Errorf("%w\nand pulling it failed: %w\n  on a host without a registry, set `offline: true` in /etc/rancher/rke2/config.yaml to be told at once", missing, err)
	}
	return root, nil
}

// known is an image that was staged before and is admitted again: whole, or drifted.
type known struct {
	image stage.Image // without layers
	whole *stage.Root
}

// staged looks at what earlier starts staged: the root of the image that the release
// pins, which needs no bundle to be known by; and those of the wanted name whose recorded
// signatures the policy takes, where no bundle has that name any more. What has changed on
// disk is told.
func (b *bootstrap) staged(ctx context.Context) []known {
	var out []known
	for _, image := range b.remembered() {
		root, err := stage.Existing(b.config.DataDir, image.Admitted)
		var drift *stage.DriftError
		switch {
		case err == nil:
			out = append(out, known{image, &root})
		case errors.As(err, &drift):
			for _, f := range drift.Files {
				b.log.Warn("a file of the staged runtime has changed on disk", "dir", drift.Dir, "file", f.Path, "change", f.What)
			}
			now := known{image: image}
			if !drift.NeedsImage() {
				if root, err := b.stage(ctx, image, "what was recorded of it"); err == nil {
					now.whole = &root
				} else {
					b.log.Error("the staged runtime could not be put right", "dir", drift.Dir, "error", err)
				}
			}
			out = append(out, now)
		case !errors.Is(err, fs.ErrNotExist):
			b.log.Warn("a staged runtime cannot be checked", "error", err)
		}
	}
	return out
}

func (b *bootstrap) remembered() []stage.Image {
	var out []stage.Image
	add := func(a trust.Admitted, proof stage.Proof) {
		if !slices.ContainsFunc(out, func(o stage.Image) bool { return stage.Key(o.Admitted) == stage.Key(a) }) {
			out = append(out, stage.Image{Admitted: a, Release: b.config.Release.Version, Proof: proof})
		}
	}
	_, notInBundles := b.folder.FindAll(b.wanted...)
	// With verification off a bundle may hold something else than the release's.
	if b.config.Verification != trust.ModeOff || notInBundles != nil {
		for _, ref := range b.wanted {
			if tag, ok := ref.(name.Tag); ok {
				if a, ok := b.policy.Pinned(tag); ok {
					add(a, stage.Proof{})
				}
			}
		}
	}
	if notInBundles == nil || len(out) > 0 {
		return out
	}
	all, err := stage.All(b.config.DataDir)
	if err != nil {
		b.log.Warn("what was staged before is not known", "error", err)
	}
	slices.SortStableFunc(all, func(x, y stage.Staged) int { // what is linked comes first
		return strings.Compare(fmt.Sprint(!x.Linked), fmt.Sprint(!y.Linked))
	})
	for _, s := range all {
		digest, err := v1.NewHash(s.Image)
		if err != nil {
			continue
		}
		for _, ref := range b.wanted {
			if s.Name != ref.String() {
				continue
			}
			if a, err := admitAs(b.policy, ref, digest, s.Proof); err == nil {
				add(a, s.Proof)
			} else {
				b.log.Warn("a staged runtime is not used", "dir", s.Dir, "error", err)
			}
		}
	}
	return out
}

// admitAs asks a policy about an image under a name, by tag or digest.
func admitAs(policy trust.Policy, ref name.Reference, digest v1.Hash, proof stage.Proof) (trust.Admitted, error) {
	switch ref := ref.(type) {
	case name.Tag:
		return policy.AdmitOf(ref, digest, proof.Signatures, proof.Index)
	case name.Digest:
		return policy.AdmitDigest(ref, digest, proof.Signatures, proof.Index)
	}
	return trust.Admitted{}, fmt.Errorf("image reference %s: a tag or a digest is needed", ref)
}

// stage stages an image, and tells what was done.
func (b *bootstrap) stage(ctx context.Context, image stage.Image, from string) (stage.Root, error) {
	root, err := stage.Runtime(ctx, b.config.DataDir, image)
	if err != nil {
		return root, err
	}
	if root.Staged {
		b.log.Info("staged the runtime", "dir", root.Dir, "from", from, "trusted because", image.By())
	}
	for _, f := range root.Repaired {
		b.log.Warn("a file of the staged runtime was restored", "dir", root.Dir, "file", f.Path, "it", f.What, "from", from)
	}
	return root, nil
}

// activate switches <data-dir>/bin to the root.
func (b *bootstrap) activate(root stage.Root) error {
	was, err := stage.Activate(b.config.DataDir, root)
	if err != nil {
		return err
	}
	link := filepath.Join(b.config.DataDir, "bin")
	switch {
	case was == root.Bin():
	case was == "":
		b.log.Info("linked the runtime", "link", link, "to", root.Bin())
	case filepath.Dir(filepath.Dir(was)) == filepath.Dir(root.Dir):
		b.log.Info("switched the runtime", "link", link, "to", root.Bin(), "was", was)
	default:
		b.log.Warn("the link to the runtime led elsewhere and was put right", "link", link, "to", root.Bin(), "was", was)
	}
	return nil
}

// wayBack says that the version which ran before is still there, if it is, and how it is
// come back to; nil if nothing is linked.
func (b *bootstrap) wayBack() error {
	all, err := stage.All(b.config.DataDir)
	if err != nil {
		return nil // the first error says what is wrong with the folder
	}
	at := slices.IndexFunc(all, func(s stage.Staged) bool { return s.Linked })
	if at < 0 {
		return nil
	}
	s := all[at]
	version := s.Release
	if version == "" {
		version = "the version of " + s.Name
	}
	if version == b.config.Release.Version {
		return fmt.Errorf("  what is staged in %s is left as it was", s.Dir)
	}
	return fmt.Errorf("  the runtime of rke2 %s is still staged in %s, and nothing of it was changed: to go on with it, put the rke2 program of %s back and start that", version, s.Dir, version)
}
