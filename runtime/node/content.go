package node

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/airgap/trust"
	"github.com/rancher/rke2/runtime/config"
	"github.com/rancher/rke2/runtime/imageimport"
	"github.com/rancher/rke2/runtime/packaged"
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
	charts packaged.Delivery
	log    *slog.Logger
	line   *timeline.Line

	verdicts map[offered]verdict // of open bundles
	broken   map[offered]error   // images that cannot be imported as things are
}

// Close closes the bundles.
func (c *Content) Close() error { return c.folder.Close() }

// Bin is the folder of the node's executables.
func (c *Content) Bin() string { return c.root.Bin() }

// Charts is what was done with the packaged charts; agents have none.
func (c *Content) Charts() packaged.Delivery { return c.charts }

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
//
// Where the disk has too little room for the control plane, it waits for it.
//
// Then it goes on until ctx ends: see follow.
func (c *Content) Import(ctx context.Context, address string, ready func(reference string)) error {
	importer, closeAll, err := c.importer(address)
	if err != nil {
		return fmt.Errorf("importing images: %w", err)
	}
	defer closeAll()
	ctx = namespaces.WithNamespace(ctx, kubernetesNamespace)
	s := &supply{Content: c, importer: importer, started: time.Now()}
	if err := s.controlPlane(ctx, ready); err != nil {
		return err
	}
	if err := s.fill(ctx); err != nil {
		return err
	}
	c.line.Mark(timeline.Images)
	go c.forgetOldRuntimes(ctx, runsFrom, forgetEvery)
	return s.follow(ctx)
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
			Client:      client,
			CRI:         runtimeapi.NewImageServiceClient(conn),
			Blobs:       contentStore(c.config.DataDir),
			Holder:      c.folder.Holder,
			Registries:  registries,
			Snapshotter: c.config.Snapshotter,
			Progress:    progress(c.log, c.line.Status),
			Log:         c.log,
		}, func() {
			_ = conn.Close()
			_ = client.Close()
		}, nil
}
