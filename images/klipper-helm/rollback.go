package main

import (
	"context"
	"fmt"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/release"
)

// rollBack brings back what ran before an upgrade that failed, whatever the policy: that
// is about what a later try does. It returns the failure, and what became of it.
func (w *worker) rollBack(ctx context.Context, failure error) error {
	if ctx.Err() != nil {
		return failure // Helm may be at work still
	}
	history, err := w.history()
	if err != nil {
		return fmt.Errorf("%w; it is not rolled back: %w", failure, err)
	}
	last, to := newest(history), deployed(history)
	if last == nil || to == nil || last.Info.Status != release.StatusFailed {
		return failure // nothing was changed, or there is nothing to go back to
	}
	w.report.last("release %s: upgrade to revision %d failed: %v\nrelease %s: roll back to revision %d", w.job.name, last.Version, failure, w.job.name, to.Version)
	a := action.NewRollback(w.cfg)
	a.Version = to.Version
	a.Timeout = w.job.timeout
	a.MaxHistory = maxHistory
	if err := a.Run(w.job.name); err != nil {
		return fmt.Errorf("%w; rolling back to revision %d failed too: %w", failure, to.Version, err)
	}
	return fmt.Errorf("%w; rolled back to revision %d, which is deployed again as revision %d", failure, to.Version, last.Version+1)
}

// next is what this job does about upgrades that failed.
func (w *worker) next(failures int) string {
	switch {
	case failures < mostFailures:
		return "it is tried again"
	case w.job.policy == abort:
		return "spec.failurePolicy is abort: what runs stays as it is until the chart or its values change"
	}
	return "spec.failurePolicy is " + string(w.job.policy)
}

// again tells whether an upgrade that came to nothing is tried once more while an earlier
// revision runs. That one is not taken down, nor anybody called, because a node lost its
// power or a HelmChart was changed in the middle.
func (w *worker) again(history []*release.Release, failures int) bool {
	if deployed(history) == nil {
		return false
	}
	return cutShort(newest(history)) || w.job.policy == reinstall && failures < mostFailures
}
