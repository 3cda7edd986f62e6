package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/google/go-containerregistry/pkg/name"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/airgap/trust"
	"github.com/rancher/rke2/runtime/config"
	"github.com/rancher/rke2/runtime/imageimport"
	"github.com/rancher/rke2/runtime/scan"
	"github.com/rancher/rke2/runtime/stage"
	"github.com/rancher/rke2/runtime/timeline"
)

const (
	goarch = runtime.GOARCH
	// kubernetesNamespace is containerd's namespace of the CRI plugin.
	kubernetesNamespace = "k8s.io"
)

// Content is what a prepared node has: its staged executables, and the bundles
// whose images go into containerd once that runs.
type Content struct {
	config config.Config
	policy trust.Policy
	folder *scan.Folder
	root   stage.Root
	log    *slog.Logger
	line   *timeline.Line
}

// Close closes the bundles.
func (c *Content) Close() error { return c.folder.Close() }

// Bin is the folder of the node's executables.
func (c *Content) Bin() string { return c.root.Bin() }

// Pinned is name@digest of a reference that the release pins, else the
// reference: what runs is then what was pinned, wherever it came from. With
// verification off, the operator's bundles may hold something else.
func (c *Content) Pinned(reference string) string {
	if c.config.Verification == trust.ModeOff {
		return reference
	}
	tag, err := airgap.ParseTag(reference)
	if err != nil {
		return reference
	}
	admitted, ok := c.policy.Pinned(tag)
	if !ok {
		return reference
	}
	return strings.TrimSuffix(tag.String(), ":"+tag.TagStr()) + "@" + admitted.Digest().String()
}

// Import brings every admitted image of every bundle into the containerd at
// address and reports each wanted image as soon as containers of it can start:
// the sandbox image and etcd first, the rest of the control plane next, then
// what else the bundles hold. A refused or damaged image is not imported; it is
// fatal if the control plane needs it.
func (c *Content) Import(ctx context.Context, address string, ready func(reference string)) error {
	started := time.Now()
	importer, closeAll, err := c.importer(address)
	if err != nil {
		return fmt.Errorf("importing images: %w", err)
	}
	defer closeAll()
	ctx = namespaces.WithNamespace(ctx, kubernetesNamespace)

	items, refused := c.admit()
	items = c.available(ctx, importer, items, refused)
	control, rest, err := c.split(items, refused)
	if err != nil {
		return err
	}
	var total imageimport.Result
	tally := func(r imageimport.Result) {
		total.Images += r.Images
		total.Present += r.Present
		total.Blobs += r.Blobs
		total.Bytes += r.Bytes
	}
	for _, wanted := range control {
		if wanted.item != nil {
			result, err := importer.Import(ctx, *wanted.item)
			tally(result)
			if err != nil {
				return err
			}
		}
		for _, ref := range wanted.refs {
			ready(ref)
		}
	}
	if len(rest) > 0 {
		result, err := importer.Import(ctx, rest...)
		tally(result)
		if err != nil {
			return err
		}
	}
	for _, file := range c.folder.Files {
		if file.Archive == nil || file.Archive.Format() != airgap.FormatDockerArchive {
			continue
		}
		if err := c.unverifiable(file); err != nil {
			c.log.Error("images are not imported", "file", file.Path, "error", err)
			continue
		}
		result, err := importer.ImportDockerArchive(ctx, file.Archive)
		tally(result)
		if err != nil {
			c.log.Error("images are not imported", "file", file.Path, "error", err)
		}
	}
	unpinned, err := importer.Unpin(ctx, items)
	if err != nil {
		c.log.Warn("pins of removed bundles stay", "error", err)
	}
	c.line.Mark(timeline.Images)
	c.line.Read(total.Blobs, total.Bytes)
	c.log.Info("images are ready",
		"imported", total.Images, "present", total.Present, "blobs", total.Blobs, "bytes", total.Bytes,
		"refused", len(refused), "unpinned", unpinned, "seconds", time.Since(started).Seconds())
	return nil
}

func (c *Content) importer(address string) (*imageimport.Importer, func(), error) {
	client, err := containerd.New(address)
	if err != nil {
		return nil, nil, err
	}
	conn, err := grpc.NewClient("unix://"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		_ = client.Close()
		return nil, nil, err
	}
	registries := slices.Clone(c.config.AirgapExtraRegistries)
	if r := c.config.SystemDefaultRegistry; r != "" && !slices.Contains(registries, r) {
		registries = append(registries, r)
	}
	return &imageimport.Importer{
			Client:     client,
			CRI:        runtimeapi.NewImageServiceClient(conn),
			Holder:     c.folder.Holder,
			Registries: registries,
			Log:        c.log,
		}, func() {
			_ = conn.Close()
			_ = client.Close()
		}, nil
}

// admit asks the policy about every image of every bundle. Refused ones are
// logged and left out.
func (c *Content) admit() (items []imageimport.Item, refused map[string]error) {
	refused = map[string]error{}
	seen := map[string]bool{}
	for _, file := range c.folder.Files {
		if file.Archive == nil || file.Archive.Format() == airgap.FormatDockerArchive {
			continue
		}
		for _, image := range file.Archive.Images() {
			if p := image.Platform; p != nil && (p.OS != "linux" || p.Architecture != goarch) {
				continue
			}
			for _, named := range alone(image) {
				name := named.Names()[0]
				if seen[name] {
					continue // the first bundle that has it
				}
				item, err := c.admitOne(file, named)
				if err != nil {
					c.log.Error("an image is refused and not imported", "image", name, "file", file.Path, "error", err)
					refused[name] = err
					continue
				}
				seen[name] = true
				items = append(items, item)
			}
		}
	}
	return items, refused
}

// alone is an image under each of its names, tags and digests.
func alone(image airgap.Image) []airgap.Image {
	var out []airgap.Image
	tags, digests := image.Refs, image.Digests
	for _, tag := range tags {
		image.Refs, image.Digests = []name.Tag{tag}, nil
		out = append(out, image)
	}
	for _, digest := range digests {
		image.Refs, image.Digests = nil, []name.Digest{digest}
		out = append(out, image)
	}
	return out
}

// admitOne asks the policy about an image with one name.
func (c *Content) admitOne(file scan.File, image airgap.Image) (imageimport.Item, error) {
	admitted, err := admit(c.policy, file.Archive, image)
	return imageimport.Item{Archive: file.Archive, Image: image, Admitted: admitted}, err
}

// admit asks a policy about an image of a bundle under the first of its names: with the
// signatures of its manifest, and of the image index that it was taken out of.
func admit(policy trust.Policy, archive *airgap.Archive, image airgap.Image) (trust.Admitted, error) {
	signatures, err := archive.Signatures(image.Desc.Digest)
	if err != nil {
		return trust.Admitted{}, err
	}
	of, err := archive.IndexOf(image)
	if err != nil {
		return trust.Admitted{}, err
	}
	if len(image.Refs) > 0 {
		return policy.AdmitOf(image.Refs[0], image.Desc.Digest, signatures, of)
	}
	return policy.AdmitDigest(image.Digests[0], image.Desc.Digest, signatures, of)
}

// available leaves out images of which a layer is nowhere, because a part or a base is
// missing: nothing of them is imported. They are logged and added to the refused.
func (c *Content) available(ctx context.Context, importer *imageimport.Importer, items []imageimport.Item, refused map[string]error) []imageimport.Item {
	var out []imageimport.Item
	for _, item := range items {
		err := importer.Check(ctx, item)
		if err == nil {
			out = append(out, item)
			continue
		}
		if missing := c.folder.Missing(item.Archive); missing != nil {
			err = fmt.Errorf("%w: %w: copy what is missing into %s", err, missing, c.folder.Dir)
		}
		ref := item.Admitted.Name()
		c.log.Error("an image is not complete and not imported", "image", ref, "file", item.Archive.Path(), "error", err)
		refused[ref] = err
	}
	return out
}

// unverifiable tells whether the policy lets images in that cannot carry a
// signature: every one of them must be admitted without.
func (c *Content) unverifiable(file scan.File) error {
	for _, image := range file.Archive.Images() {
		for _, ref := range image.Refs {
			if c.policy.Required(ref) {
				return fmt.Errorf("%s must carry a trusted signature, which a legacy docker-archive cannot: save it as an OCI archive, with its signature", ref)
			}
		}
	}
	return nil
}

// wantedImage is one that the node itself needs.
type wantedImage struct {
	item *imageimport.Item // nil if no bundle has it: the runtime will pull it
	refs []string          // names that wait for it
}

// split orders what the node itself needs before everything else.
func (c *Content) split(items []imageimport.Item, refused map[string]error) (control []wantedImage, rest []imageimport.Item, err error) {
	used := map[int]bool{}
	var order []wantedName
	order = append(order, wantedName{"the sandbox image", func() (name.Reference, error) { return c.config.Image(config.RolePause) }, config.RolePause})
	if c.config.Role == config.Server {
		for _, component := range []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"} {
			role := config.RoleKubernetes
			if component == "etcd" {
				role = config.RoleEtcd
			}
			if c.config.ImageOverrides[component] != "" {
				role = component
			}
			order = append(order, wantedName{component, func() (name.Reference, error) { return c.config.ComponentImage(component) }, role})
		}
	}
	for _, w := range order {
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
			if err := c.absent(w.what, candidates, refused); err != nil {
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

type wantedName struct {
	what  string
	image func() (name.Reference, error)
	role  string
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
