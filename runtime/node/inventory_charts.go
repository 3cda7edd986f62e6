package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/airgap/layer"
	"github.com/rancher/rke2/runtime/config"
	"github.com/rancher/rke2/runtime/imageimport"
	"github.com/rancher/rke2/runtime/packaged"
	"github.com/rancher/rke2/runtime/stage"
)

// charts lists the images of the charts that a server with these settings deploys. What
// cannot be told of them is a fault of the inventory, not its end.
func (t *taking) charts(ctx context.Context) {
	if t.config.Role != config.Server {
		return
	}
	all, known, err := t.packagedCharts(ctx)
	if err != nil {
		t.inventory.Faults = append(t.inventory.Faults, err.Error())
	}
	if !known {
		return // the runtime image is missing: it has a row that says so
	}
	t.chosen(all)
}

// chosen lists the images of those charts that the settings choose.
func (t *taking) chosen(all []packaged.Chart) {
	selection, err := packaged.Select(all, t.config.Charts, t.config.Charts.Disable)
	if err != nil {
		t.inventory.Faults = append(t.inventory.Faults, err.Error())
		return
	}
	for _, image := range imagesOf(selection.Chosen) {
		candidates, err := candidatesOf(t.config, image.Ref)
		if err != nil {
			t.inventory.Faults = append(t.inventory.Faults, fmt.Sprintf("image %s of a packaged chart: %v", image.Ref, err))
			continue
		}
		wanted := candidates[len(candidates)-1]
		for _, chart := range image.Charts {
			t.row(wanted.String(), "chart "+chart)
		}
		t.found(wanted, candidates)
	}
}

// found notes which bundle has an image that is wanted under the last of its names.
func (t *taking) found(wanted name.Reference, candidates []name.Reference) {
	row := t.row(wanted.String(), "")
	if row.Bundle != "" {
		return // the node itself needs it too
	}
	at := slices.IndexFunc(t.items, func(i imageimport.Item) bool { return fits(i, candidates) })
	if at >= 0 {
		t.offered(row, t.items[at])
		t.at[t.items[at].Admitted.Name()] = t.at[wanted.String()]
	}
	for _, candidate := range candidates {
		t.pinned(row, candidate)
		if fault := t.refused[candidate.String()]; fault != nil && at < 0 {
			row.Fault = fault.Error()
			t.at[candidate.String()] = t.at[wanted.String()]
		}
	}
}

// packagedCharts are those of the runtime that is staged, or of the runtime image that a
// bundle has; false if neither is there.
func (t *taking) packagedCharts(ctx context.Context) (all []packaged.Chart, known bool, err error) {
	candidates, err := t.config.Candidates(config.RoleRuntime)
	if err != nil {
		return nil, false, err
	}
	for _, candidate := range candidates {
		tag, ok := candidate.(name.Tag)
		if !ok {
			continue
		}
		if admitted, pinned := t.policy.Pinned(tag); pinned {
			if root, err := stage.Existing(t.config.DataDir, admitted); err == nil {
				all, err := packaged.Read(root.Charts())
				return all, err == nil, err
			}
		}
	}
	at := slices.IndexFunc(t.items, func(i imageimport.Item) bool { return fits(i, candidates) })
	if at < 0 {
		return nil, false, nil
	}
	all, err = chartsOf(ctx, t.items[at])
	if err != nil {
		err = fmt.Errorf("the charts of %s: %w", t.items[at].Admitted.Name(), err)
	}
	return all, err == nil, err
}

// chartsOf reads the manifests of an admitted runtime image in a bundle.
func chartsOf(ctx context.Context, item imageimport.Item) (_ []packaged.Chart, err error) {
	dir, err := os.MkdirTemp("", "rke2-charts-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if _, err := airgap.Extract(ctx, item.Archive, airgap.ExtractOptions{
		Dir: dir, Ref: item.Image.Desc.Digest.String(), Paths: []string{"/charts"},
	}); errors.Is(err, layer.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	return packaged.Read(filepath.Join(dir, "charts"))
}
