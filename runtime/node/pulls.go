package node

import (
	"context"
	"fmt"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rancher/rke2/airgap/trust"
	"github.com/rancher/rke2/runtime/prepull"
	"github.com/rancher/rke2/runtime/pull"
)

// pulls is the pulling of images that lists name, beside everything else: a registry
// may be slow, or away for hours.
type pulls struct {
	cancel context.CancelFunc // nil if none is under way
	end    sync.WaitGroup
}

// listed are the names of the images that the folder's lists ask for.
func (s *supply) listed() []string {
	lines, _ := prepull.ReadFolder(s.folder.Dir) // startPulls says what is wrong
	var names []string
	for _, line := range lines {
		names = append(names, line.Ref.String())
	}
	return names
}

// startPulls begins anew with what the lists ask for now and no bundle has.
func (w *watching) startPulls(ctx context.Context) {
	w.stopPulls()
	lines, err := prepull.ReadFolder(w.folder.Dir)
	if err != nil {
		w.log.Error("a list of images is passed over", "error", err)
	}
	var due []prepull.Line
	for _, line := range lines {
		if !w.owned[line.Ref.String()] {
			due = append(due, line)
		}
	}
	runtime, ok := w.importer.CRI.(prepull.Runtime)
	if len(due) == 0 || !ok {
		return
	}
	puller := prepull.Puller{
		Runtime: runtime, Admit: w.admitPull, Pulled: w.importer.Pin, Offline: w.config.Offline, Log: w.log,
	}
	pulling, cancel := context.WithCancel(ctx)
	w.pulls.cancel = cancel
	w.pulls.end.Go(func() { puller.Run(pulling, due) })
}

func (w *watching) stopPulls() {
	if w.pulls.cancel != nil {
		w.pulls.cancel()
		w.pulls.end.Wait()
		w.pulls.cancel = nil
	}
}

// admitPull says what may be pulled for a reference. The container runtime looks at no
// signatures: where one is required, they are looked for at the registry and verified
// here, and the image is then pulled by the digest that they are about.
func (w *watching) admitPull(ctx context.Context, ref name.Reference) (name.Reference, error) {
	if w.config.Verification == trust.ModeOff {
		return ref, nil
	}
	tag, ok := ref.(name.Tag)
	if !ok {
		tag = ref.Context().Tag("") // whether the repository's images must be signed
	} else if admitted, pinned := w.policy.Pinned(tag); pinned {
		return name.NewDigest(repositoryOf(ref) + "@" + admitted.Digest().String())
	}
	if !w.policy.Required(tag) {
		return ref, nil
	}
	client, err := pull.New(pull.Settings{
		Registries: w.config.PrivateRegistry, Log: w.log,
		Providers: w.config.CredentialProviders, ProviderBin: w.config.CredentialProviderBin,
	})
	if err != nil {
		return nil, err
	}
	remote, err := client.Find(ctx, ref)
	if err != nil {
		return nil, fmt.Errorf("looking for its signature, which image-verification: %s requires: %w", w.config.Verification, err)
	}
	admitted, err := remote.Admit(w.policy)
	if err != nil {
		return nil, fmt.Errorf("%w, and image-verification is %s: %w", prepull.ErrRefused, w.config.Verification, err)
	}
	w.log.Info("an image of a list is verified", "image", ref.String(), "digest", admitted.Digest().String(), "trusted because", admitted.By())
	return name.NewDigest(repositoryOf(ref) + "@" + admitted.Digest().String())
}

// repositoryOf is the name before tag or digest, written as the reference is.
func repositoryOf(ref name.Reference) string {
	full, suffix := ref.String(), ref.Identifier()
	return full[:len(full)-len(suffix)-1]
}

var _ prepull.Runtime = runtimeapi.ImageServiceClient(nil)
