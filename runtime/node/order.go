package node

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/google/go-containerregistry/pkg/name"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/runtime/config"
	"github.com/rancher/rke2/runtime/imageimport"
	"github.com/rancher/rke2/runtime/packaged"
)

// inOrder puts what bundles offer into the order in which a cluster needs it: the image of
// the jobs that install charts, those of charts that nodes need to become Ready (on an
// agent, the other way round), the other charts', the rest as it is. A pod that is started before its image is there fails, and
// the kubelet waits ten seconds and more before it tries again. Items of a compressed
// bundle are read in one pass all the same.
func (c *Content) inOrder(items []imageimport.Item) []imageimport.Item {
	first := c.chartImages()
	rank := func(i imageimport.Item) int {
		if at := slices.Index(first, i.Admitted.Name()); at >= 0 {
			return at
		}
		return len(first)
	}
	out := slices.Clone(items)
	slices.SortStableFunc(out, func(a, b imageimport.Item) int { return rank(a) - rank(b) })
	return out
}

// chartImages are the images of charts by the names that the release has them under, the
// first that are needed first: a server's charts are installed by jobs; an agent runs their
// pods, of whichever charts the cluster chose, and a job only when it is Ready.
func (c *Content) chartImages() []string {
	chosen, server := c.charts.Chosen, c.config.Role == config.Server
	if !server {
		chosen = c.charts.Known
	}
	if len(chosen) == 0 {
		return nil
	}
	var out []string
	for _, bootstrap := range []bool{true, false} {
		if job, ok := c.config.Release.Image(config.RoleHelmJob); ok && bootstrap == server {
			out = append(out, job.Reference)
		}
		for _, chart := range chosen {
			if chart.Bootstrap == bootstrap {
				out = append(out, chart.Images()...)
			}
		}
	}
	return out
}

// chartImage is an image that charts need, by the release's name of it.
type chartImage struct {
	Ref    string
	Charts []string
}

// imagesOf are the images of charts, in the order in which they are first named. What the
// operator's own values change is not known here.
func imagesOf(chosen []packaged.Chart) []chartImage {
	var out []chartImage
	for _, chart := range chosen {
		for _, ref := range chart.Images() {
			at := slices.IndexFunc(out, func(i chartImage) bool { return i.Ref == ref })
			if at < 0 {
				at = len(out)
				out = append(out, chartImage{Ref: ref})
			}
			out[at].Charts = append(out[at].Charts, chart.Name)
		}
	}
	return out
}

// candidatesOf are the names that a bundle may have a chart's image under: the release's,
// and that in system-default-registry, which the chart then asks for.
func candidatesOf(c config.Config, ref string) ([]name.Reference, error) {
	tag, err := airgap.ParseTag(ref)
	if err != nil {
		return nil, err
	}
	out := []name.Reference{tag}
	if c.SystemDefaultRegistry != "" {
		moved, err := config.Move(tag, c.SystemDefaultRegistry)
		if err != nil {
			return nil, err
		}
		out = append(out, moved)
	}
	return out, nil
}

// missingChartImages says which images of charts are nowhere on this host: those charts
// would never come up. A registry may have them; with offline nobody has.
func (c *Content) missingChartImages(ctx context.Context) {
	var missing []chartImage
	for _, image := range imagesOf(c.charts.Chosen) {
		candidates, err := candidatesOf(c.config, image.Ref)
		if err != nil {
			c.log.Warn("a packaged chart names an image that is none", "image", image.Ref, "error", err)
			continue
		}
		if _, err := c.folder.FindAll(candidates...); err != nil {
			missing = append(missing, image)
		}
	}
	if len(missing) == 0 {
		return
	}
	// Only now, because it takes reading containerd's database.
	ctx = namespaces.WithNamespace(ctx, kubernetesNamespace)
	held, err := imageimport.HeldOffline(ctx, filepath.Join(c.config.DataDir, "agent", "containerd"))
	if err != nil {
		held = nil // it never ran, or it runs: then it has them or says so itself
	}
	for _, image := range missing {
		if held[image.Ref].Whole {
			continue
		}
		err := errors.New("no bundle in " + c.folder.Dir + " has it")
		if !c.config.Offline {
			c.log.Warn("an image of a chart is not on this host: a registry will be asked for it", "image", image.Ref, "charts", image.Charts, "error", err)
			continue
		}
		c.log.Warn("a chart cannot come up: its image is not on this host and offline is set", "image", image.Ref, "charts", image.Charts, "error", err,
			"todo", c.remedy(image))
	}
}

// remedy says which bundle has an image, or how a node goes without the charts.
func (c *Content) remedy(image chartImage) string {
	without := fmt.Sprintf("or go without: `disable: [%s]`", strings.Join(image.Charts, ", "))
	for _, i := range c.config.Release.Images {
		if i.Reference == image.Ref && len(i.Sets) > 0 {
			return fmt.Sprintf("copy the bundle rke2-images-%s of this version there, %s", strings.Join(i.Sets, " or rke2-images-"), without)
		}
	}
	return "copy a bundle that has it there, " + without
}
