package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/storage/driver"
	"k8s.io/client-go/discovery"
)

// maxHistory is how many revisions are kept, as by Helm's command line.
const maxHistory = 10

// step is one thing to do to a release.
type step string

const (
	markFailed step = "mark as failed"
	uninstall  step = "uninstall"
	install    step = "install"
	replace    step = "install again" // where an uninstalled release's history was kept
	upgrade    step = "upgrade"
)

// errAbort is a release that is left alone, as its policy says.
var errAbort = errors.New("spec.failurePolicy is abort: nothing is done until somebody repairs or uninstalls the release, or sets another policy")

// plan says what to do, from the status of the release's last revision ("" without
// any). again is whether an upgrade that came to nothing is tried once more: see
// [worker.again].
func plan(j job, last release.Status, again bool) ([]step, error) {
	switch last {
	case "":
		return []step{install}, nil
	case release.StatusUninstalled:
		return []step{replace}, nil
	case release.StatusDeployed:
		return []step{upgrade}, nil
	}
	var steps []step
	if last != release.StatusFailed {
		// pending-install, pending-upgrade, pending-rollback, uninstalling: the process
		// that worked on it is gone, or this job would not have been started. Helm
		// refuses to touch those until they are something else.
		steps = append(steps, markFailed)
	}
	switch {
	case j.policy == retry, j.policy != "" && again:
		return append(steps, upgrade), nil
	case j.policy == reinstall:
		return append(steps, uninstall, install), nil
	}
	return steps, errAbort
}

// superseded tells whether the job is about a state that is gone, as helm-controller
// v0.17 wants it checked: a release has another revision than the controller saw, and
// it was not this job, in an earlier try, that made it.
func superseded(j job, last *release.Release) bool {
	if j.expected < 0 || last == nil || last.Version == j.expected {
		return false
	}
	if j.configHash != "" && last.Labels[configHashLabel] == j.configHash {
		return last.Info.Status == release.StatusDeployed
	}
	// Without a hash nobody knows whose it is; what is not deployed is tried again.
	return j.configHash != "" || last.Info.Status == release.StatusDeployed
}

// do does the job. What can fail before the cluster is touched, does.
func (j job) do(ctx context.Context, f files, r *report) error {
	var ch *chart.Chart
	var values map[string]any
	if j.verb == verbInstall {
		var err error
		if values, err = mergeValues(j, f); err != nil {
			return err
		}
		if ch, err = (&source{job: j, files: f, report: r}).load(ctx); err != nil {
			return err
		}
	}
	cfg, err := configuration(j, r)
	if err != nil {
		return err
	}
	if err := reach(ctx, cfg.KubeClient, apiWait, r); err != nil {
		return err
	}
	w := &worker{job: j, cfg: cfg, report: r}
	if j.verb == verbDelete {
		return w.delete(ctx)
	}
	// A job that is told to end does so at once, for the one that comes after it may have
	// begun already, and will take up what is left.
	return w.apply(ctx, ch, values)
}

// worker does a job with Helm.
type worker struct {
	job     job
	cfg     *action.Configuration
	report  *report
	attempt string // at the chart and values of the job, which its revisions are labelled with
}

// history is all that Helm remembers of the release, the oldest revision first: nothing
// if there is no release.
func (w *worker) history() ([]*release.Release, error) {
	all, err := w.cfg.Releases.History(w.job.name)
	if errors.Is(err, driver.ErrReleaseNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking for the release in namespace %s: %w", w.job.namespace, err)
	}
	return inOrder(all), nil
}

func (w *worker) apply(ctx context.Context, ch *chart.Chart, values map[string]any) error {
	var err error
	if w.attempt, err = attemptOf(ch, values); err != nil {
		return err
	}
	history, err := w.history()
	if err != nil {
		return err
	}
	last, failures := newest(history), failedUpgrades(history, w.attempt)
	if failures == 0 && superseded(w.job, last) {
		w.report.last("release %s is at revision %d (%s), not at %d as when this job was made: nothing to do", w.job.name, last.Version, last.Info.Status, w.job.expected)
		return nil
	}
	var status release.Status
	if last == nil {
		w.report.say("there is no release %s in namespace %s", w.job.name, w.job.namespace)
	} else {
		if err := w.rememberServed(history); err != nil {
			return err
		}
		status = last.Info.Status
		w.report.say("release %s in namespace %s is %s at revision %d: %s", w.job.name, w.job.namespace, status, last.Version, last.Info.Description)
	}
	if failures > 0 {
		w.report.say("upgrades to this chart with these values that failed: %d; %s", failures, w.next(failures))
	}
	if failures >= mostFailures && status == release.StatusDeployed {
		status = release.StatusFailed // it was rolled back, and the policy applies
	}
	steps, refused := plan(w.job, status, w.again(history, failures))
	rel, err := w.carryOut(ctx, steps, last, ch, values)
	if err != nil || refused != nil {
		return errors.Join(err, refused)
	}
	if notes := strings.TrimSpace(rel.Info.Notes); notes != "" {
		w.report.say("notes of the chart:\n%s", notes)
	}
	w.report.last("release %s is deployed at revision %d: chart %s %s in namespace %s", rel.Name, rel.Version, ch.Name(), ch.Metadata.Version, rel.Namespace)
	return nil
}

// carryOut does what is planned, one step after the other. It gives the revision that is
// deployed then, if one of the steps deploys any.
func (w *worker) carryOut(ctx context.Context, steps []step, last *release.Release, ch *chart.Chart, values map[string]any) (rel *release.Release, err error) {
	for _, s := range steps {
		w.report.last("release %s: %s (chart %s %s, namespace %s)", w.job.name, s, ch.Name(), ch.Metadata.Version, w.job.namespace)
		switch s {
		case markFailed:
			last.SetStatus(release.StatusFailed, interrupted+last.Info.Status.String())
			err = w.cfg.Releases.Update(last)
		case uninstall:
			err = w.uninstall()
		case install, replace:
			rel, err = w.install(ctx, ch, values, s == replace)
			err = inLine(err)
		case upgrade:
			if rel, err = w.upgrade(ctx, ch, values); err != nil {
				err = w.rollBack(ctx, inLine(err))
			}
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s, err)
		}
	}
	return rel, nil
}

func (w *worker) install(ctx context.Context, ch *chart.Chart, values map[string]any, again bool) (*release.Release, error) {
	a := action.NewInstall(w.cfg)
	a.ReleaseName, a.Namespace = w.job.name, w.job.namespace
	a.CreateNamespace = w.job.createNamespace
	a.TakeOwnership = w.job.takeOwnership
	a.Timeout = w.job.timeout
	a.Replace = again
	a.Labels = w.labels()
	return a.RunWithContext(ctx, ch, values)
}

func (w *worker) upgrade(ctx context.Context, ch *chart.Chart, values map[string]any) (*release.Release, error) {
	a := action.NewUpgrade(w.cfg)
	a.Namespace = w.job.namespace
	a.TakeOwnership = w.job.takeOwnership
	a.Timeout = w.job.timeout
	a.MaxHistory = maxHistory
	a.Labels = w.labels()
	// What a HelmChart no longer says must not stay in force.
	a.ResetValues = true
	return a.RunWithContext(ctx, w.job.name, ch, values)
}

// labels mark a revision with what it was made from.
func (w *worker) labels() map[string]string {
	labels := map[string]string{attemptLabel: w.attempt}
	maps.Copy(labels, w.job.labels())
	return labels
}

func (w *worker) uninstall() error {
	a := action.NewUninstall(w.cfg)
	a.Wait = true
	a.Timeout = w.job.timeout
	a.IgnoreNotFound = true
	a.DeletionPropagation = "background"
	res, err := a.Run(w.job.name)
	if res != nil && res.Info != "" {
		w.report.say("%s", res.Info)
	}
	return err
}

// uninstallError is what Helm says of a release that it could not uninstall.
type uninstallError struct{ err error }

func (e *uninstallError) Error() string { return e.err.Error() }
func (e *uninstallError) Unwrap() error { return e.err }

// delete uninstalls the release. Its error is an *uninstallError if trying again would
// change nothing: the API answered, and Helm failed all the same.
func (w *worker) delete(ctx context.Context) error {
	history, err := w.history()
	if err != nil {
		return err
	}
	last := newest(history)
	if last == nil {
		w.report.last("there is no release %s in namespace %s: nothing to delete", w.job.name, w.job.namespace)
		return nil
	}
	if err := w.rememberServed(history); err != nil {
		w.report.say("going on with what the release remembers: %v", err)
	}
	w.report.last("release %s: uninstall (%s at revision %d, namespace %s)", w.job.name, last.Info.Status, last.Version, w.job.namespace)
	if err := w.uninstall(); err != nil {
		if reach(ctx, w.cfg.KubeClient, 0, w.report) != nil {
			return err
		}
		return &uninstallError{err}
	}
	w.report.last("release %s is uninstalled from namespace %s", w.job.name, w.job.namespace)
	return nil
}

// rememberServed brings what the release remembers up to what this Kubernetes serves.
func (w *worker) rememberServed(history []*release.Release) error {
	if w.cfg.RESTClientGetter == nil {
		return nil // no cluster to ask
	}
	d, err := w.cfg.RESTClientGetter.ToDiscoveryClient()
	if err != nil {
		return fmt.Errorf("asking what the Kubernetes API serves: %w", err)
	}
	return w.modernise(d, history)
}

func (w *worker) modernise(d discovery.ServerResourcesInterface, history []*release.Release) error {
	served, err := servedBy(d)
	if err != nil {
		return err
	}
	for _, rel := range history {
		if rel != newest(history) && (rel.Info.Status == release.StatusSuperseded || rel.Info.Status == release.StatusUninstalled) {
			continue // what was applied since is what counts
		}
		manifest, changes := modernise(rel.Manifest, served)
		if len(changes) == 0 {
			continue
		}
		for _, c := range changes {
			w.report.say("revision %d: %s", rel.Version, c)
		}
		rel.Manifest = manifest
		if err := w.cfg.Releases.Update(rel); err != nil {
			return fmt.Errorf("writing revision %d: %w", rel.Version, err)
		}
	}
	return nil
}
