package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/releaseutil"
)

const (
	// attemptLabel marks a revision with what it was made of, so that a later try of a
	// job knows whether it is the same that has failed.
	attemptLabel = "rke2.cattle.io/attempt"
	// mostFailures is how often the same upgrade may fail before the policy for failed
	// releases applies. Once may have been a webhook or an API server that was not up,
	// which is no reason to take down what runs and install it anew.
	mostFailures = 2
	// How Helm describes the revision that an upgrade made that failed, and the one of a
	// rollback, whatever came of it.
	upgradeFailed, rollback = `Upgrade "`, "Rollback "
	// interrupted is how the revision of a process that is gone is described, before what
	// it was at.
	interrupted = "interrupted: was "
)

// attemptOf is a digest of a chart and its values, in a form that labels take.
func attemptOf(ch *chart.Chart, values map[string]any) (string, error) {
	sum, err := sumOf(ch)
	if err != nil {
		return "", fmt.Errorf("chart %s: %w", ch.Name(), err)
	}
	text, err := json.Marshal(values) // its keys are sorted
	if err != nil {
		return "", fmt.Errorf("values of chart %s: %w", ch.Name(), err)
	}
	digest := sha256.Sum256(append(text, sum...))
	return hex.EncodeToString(digest[:16]), nil
}

// sumOf is a digest of a chart and the charts in it, in whatever order those were read.
func sumOf(ch *chart.Chart) (string, error) {
	text, err := json.Marshal(ch)
	if err != nil {
		return "", err
	}
	var parts []string
	for _, d := range ch.Dependencies() {
		sum, err := sumOf(d)
		if err != nil {
			return "", err
		}
		parts = append(parts, sum)
	}
	slices.Sort(parts)
	digest := sha256.Sum256([]byte(string(text) + strings.Join(parts, "")))
	return string(digest[:]), nil
}

// failedUpgrades counts how often this attempt has failed, with nothing else since. What
// was interrupted does not count: nobody knows what would have become of it. The history's
// oldest revision is its first.
func failedUpgrades(history []*release.Release, attempt string) int {
	n := 0
	for _, r := range slices.Backward(history) {
		switch said := r.Info.Description; {
		case strings.HasPrefix(said, rollback), cutShort(r):
		case strings.HasPrefix(said, upgradeFailed) && r.Labels[attemptLabel] == attempt:
			n++
		default:
			return n
		}
	}
	return n
}

// cutShort tells whether an upgrade, or a rollback, ended because its process did.
func cutShort(r *release.Release) bool {
	was := strings.TrimPrefix(r.Info.Description, interrupted)
	if r.Info.Status != release.StatusFailed {
		was = r.Info.Status.String()
	}
	return was == string(release.StatusPendingUpgrade) || was == string(release.StatusPendingRollback) ||
		strings.HasPrefix(was, upgradeFailed) && strings.HasSuffix(was, context.Canceled.Error())
}

// newest is nil where there is no revision.
func newest(history []*release.Release) *release.Release {
	if len(history) == 0 {
		return nil
	}
	return history[len(history)-1]
}

// deployed is the newest revision that Helm knows to run, nil if there is none.
func deployed(history []*release.Release) *release.Release {
	for _, r := range slices.Backward(history) {
		if r.Info.Status == release.StatusDeployed {
			return r
		}
	}
	return nil
}

// inOrder sorts revisions, the oldest first.
func inOrder(history []*release.Release) []*release.Release {
	releaseutil.SortByRevision(history)
	return history
}
