package imageimport

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// name protects the blobs from garbage collection, unpacks the layers, and then
// creates the image's names, pinned: who finds a name finds an image that runs.
func (r *run) name(ctx context.Context, w wanted) (int, error) {
	if err := r.label(ctx, w); err != nil {
		return 0, fmt.Errorf("labelling its blobs: %w", err)
	}
	target := descriptor(w.manifest)
	unpack := containerd.NewImage(r.Client, images.Image{Name: w.Admitted.Name(), Target: target})
	if err := unpack.Unpack(ctx, r.snapshotter()); err != nil {
		return 0, fmt.Errorf("unpacking it: %w", err)
	}
	changed := 0
	names := r.Names(w.Item)
	for _, name := range names {
		created, err := r.put(ctx, images.Image{Name: name, Target: target, Labels: pins()})
		if err != nil {
			return changed, fmt.Errorf("naming it %s: %w", name, err)
		}
		if created {
			changed++
		}
	}
	r.progress.finished(w.Admitted.Name())
	return changed, r.awaitCRI(ctx, names)
}

// label says what the manifest refers to, which keeps it from being collected, and for
// whom each blob can be served.
func (r *run) label(ctx context.Context, w wanted) error {
	store := r.Client.ContentStore()
	handler := images.SetChildrenLabels(store, images.ChildrenHandler(store))
	err := images.WalkNotEmpty(ctx, handler, descriptor(w.manifest))
	if err != nil {
		return err
	}
	for _, desc := range w.blobs() {
		key := desc.Digest.String()
		info := r.have.blobs[key]
		info.Digest = digest.Digest(key)
		if r.have.blobs[key], err = r.addLabels(ctx, info, r.sources(w.Item, info.Labels)); err != nil {
			return err
		}
	}
	return nil
}

func (i *Importer) addLabels(ctx context.Context, info content.Info, add map[string]string) (content.Info, error) {
	if len(add) == 0 {
		return info, nil
	}
	var paths []string
	for name := range add {
		paths = append(paths, "labels."+name)
	}
	slices.Sort(paths)
	return i.Client.ContentStore().Update(ctx, content.Info{Digest: info.Digest, Labels: add}, paths...)
}

// distributionSource begins the label that names, by registry, the repositories that a
// blob is of (comma separated, as containerd's own pulls write it). The embedded registry
// mirror offers blobs with that label only.
const distributionSource = "containerd.io/distribution.source."

// maxLabel is containerd's limit on a label's name and value together, in bytes.
const maxLabel = 4096

// sources are the labels that a blob of an item needs and has not.
func (i *Importer) sources(item Item, has map[string]string) map[string]string {
	own, _, _ := strings.Cut(item.Admitted.Name(), "/")
	return i.sourcesOf(own, item.Admitted.Repository().RepositoryStr(), has)
}

func (i *Importer) sourcesOf(own, repository string, has map[string]string) map[string]string {
	out := map[string]string{}
	for _, registry := range append([]string{own}, i.Registries...) {
		name := distributionSource + registry
		of := strings.Split(has[name], ",")
		if slices.Contains(of, repository) {
			continue
		}
		value := repository
		if has[name] != "" {
			value = has[name] + "," + repository
		}
		if len(name)+len(value) <= maxLabel {
			out[name] = value
		}
	}
	return out
}

// put creates or corrects an image record.
func (i *Importer) put(ctx context.Context, image images.Image) (bool, error) {
	service := i.Client.ImageService()
	have, err := service.Get(ctx, image.Name)
	if err == nil {
		if have.Target.Digest == image.Target.Digest && carries(have, image.Labels) {
			return false, nil
		}
		for k, v := range have.Labels {
			if _, ours := image.Labels[k]; !ours {
				image.Labels[k] = v
			}
		}
		_, err = service.Update(ctx, image)
		return true, err
	}
	if !errdefs.IsNotFound(err) {
		return false, err
	}
	_, err = service.Create(ctx, image)
	return true, err
}

func carries(image images.Image, labels map[string]string) bool {
	for k, v := range labels {
		if image.Labels[k] != v {
			return false
		}
	}
	return true
}

// criLimit is how long the CRI plugin may take to learn of an image. It is milliseconds.
const criLimit = 30 * time.Second

// awaitCRI returns when the CRI plugin knows the image by its names. It learns of new
// images from events; until then the kubelet would try to pull.
func (i *Importer) awaitCRI(ctx context.Context, names []string) error {
	ctx, cancel := context.WithTimeout(ctx, criLimit)
	defer cancel()
	for _, name := range names {
		for {
			status, err := i.CRI.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: name}})
			if err == nil && status.Image != nil {
				break
			}
			select {
			case <-ctx.Done():
				return errors.Join(fmt.Errorf("the container runtime does not list %s %s after it was imported", name, criLimit), err)
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	return nil
}

// Names are all names that the item's image gets, its bundle's own name first.
func (i *Importer) Names(item Item) []string {
	ref, own := item.Admitted.Ref(), item.Admitted.Name()
	// What comes after the repository in the names: the tag, and digests.
	repository := strings.TrimSuffix(own, ":"+ref.TagStr())
	if ref.TagStr() == "" {
		repository, _, _ = strings.Cut(own, "@")
	}
	out := []string{own}
	for _, other := range item.Image.Names() {
		if other != own {
			out = append(out, other)
		}
	}
	path := item.Admitted.Repository().RepositoryStr()
	for _, name := range i.alsoCalled(repository, path, strings.TrimPrefix(own, repository), item.Image.Desc.Digest.String()) {
		if !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out
}

// alsoCalled are further names of REPOSITORY plus a suffix (":TAG" or "@DIGEST"): by its
// manifest's digest, and both with its path in each of the other registries.
func (i *Importer) alsoCalled(repository, path, suffix, manifest string) []string {
	out := []string{repository + "@" + manifest}
	for _, registry := range i.Registries {
		moved := registry + "/" + path
		out = append(out, moved+suffix, moved+"@"+manifest)
	}
	return out
}
