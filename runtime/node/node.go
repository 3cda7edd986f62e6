// Package node runs a node's phases in order: look at the host, scan the
// bundles, verify and stage the runtime, then hand over to the engine, which
// asks back for the images. Nothing is written for use before it was verified.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	goruntime "runtime"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/airgap/trust"
	"github.com/rancher/rke2/runtime/config"
	"github.com/rancher/rke2/runtime/host"
	"github.com/rancher/rke2/runtime/scan"
	"github.com/rancher/rke2/runtime/timeline"
)

// Prepare does everything that comes before the engine: it fails with a clear
// error and leaves nothing behind when the node's executables are not there or
// not trusted.
func Prepare(ctx context.Context, c config.Config, log *slog.Logger) (*Content, host.Facts, error) {
	return prepare(ctx, c, log, checkHost)
}

func prepare(ctx context.Context, c config.Config, log *slog.Logger, check checks) (*Content, host.Facts, error) {
	facts, err := host.Detect()
	if err != nil {
		return nil, facts, err
	}
	for _, warning := range facts.Warnings() {
		log.Warn(warning)
	}
	policy, err := newPolicy(c)
	if err != nil {
		return nil, facts, err
	}
	if c.Verification == trust.ModeOff {
		log.Warn("IMAGE VERIFICATION IS OFF: this node runs whatever it is given")
	}
	if c.Release.Development {
		log.Warn("this is a development build: it trusts a key that was made for one build, not a release key")
	}
	line := newTimeline(c)
	ctx = timeline.With(ctx, line)
	folder, err := scan.Open(c.ImagesDir())
	if err != nil {
		return nil, facts, err
	}
	for _, file := range folder.Files {
		if file.Err != nil {
			log.Error("a bundle cannot be read and is passed over", "file", file.Path, "error", file.Err)
		}
	}
	for _, missing := range folder.Incomplete() {
		// Containerd may have what is missing, of images that it got before.
		log.Warn("a bundle is not complete", "file", missing.File, "missing", missing.Error())
	}
	line.Mark(timeline.Scan)
	if err := check(c, policy, folder, log); err != nil {
		return nil, facts, errors.Join(err, folder.Close())
	}
	content := &Content{config: c, policy: policy, folder: folder, log: log, line: line}
	if content.root, content.charts, err = runtimeRoot(ctx, c, policy, folder, log); err != nil {
		return nil, facts, errors.Join(err, folder.Close())
	}
	line.Mark(timeline.Verify) // if it was not: what an earlier start staged is checked in one go
	line.Mark(timeline.Stage)
	log.Info("the runtime is ready", "bin", content.Bin(), "seconds", time.Since(line.Started()).Seconds())
	content.missingChartImages(ctx)
	prune(c.DataDir, content.root, log)
	return content, facts, nil
}

// newPolicy is what this node trusts: the release's keys and pinned digests,
// and the operator's keys.
func newPolicy(c config.Config) (trust.Policy, error) {
	policy := trust.Policy{Mode: c.Verification}
	var err error
	policy.Pins = map[string][]v1.Hash{}
	for _, image := range c.Release.Images {
		if image.Digest() == "" {
			return policy, fmt.Errorf("the release that this program carries has no %s image for %s/%s: build it with that platform", image.Name, goruntime.GOOS, goruntime.GOARCH)
		}
		h, err := v1.NewHash(image.Digest())
		if err != nil {
			return policy, fmt.Errorf("the release's %s image: %w", image.Name, err)
		}
		policy.Pins[image.Reference] = []v1.Hash{h}
	}
	for _, pem := range c.Release.PublicKeys {
		key, err := trust.ParseKey([]byte(pem), "release")
		if err != nil {
			return policy, fmt.Errorf("reading the release's public key: %w", err)
		}
		policy.ReleaseKeys = append(policy.ReleaseKeys, key)
	}
	if policy.OperatorKeys, err = trust.LoadKeys(c.TrustDir); err != nil {
		return policy, err
	}
	for _, ref := range c.ImageOverrides {
		policy.System = append(policy.System, ref)
	}
	return policy, nil
}

// Timeline is the timeline of this start.
func (c *Content) Timeline() *timeline.Line { return c.line }
