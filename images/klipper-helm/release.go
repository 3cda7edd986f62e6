package main

import (
	"context"
	"errors"
	"fmt"
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
// any). An empty plan is a job whose work is done.
func plan(j job, last release.Status) ([]step, error) {
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
	switch j.policy {
	case reinstall:
		return append(steps, uninstall, install), nil
	case retry:
		return append(steps, upgrade), nil
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
		return w.delete()
	}
	return w.apply(ctx, ch, values)
}

// worker does a job with Helm.
type worker struct {
	job    job
	cfg    *action.Configuration
	report *report
}

// lastRevision is nil if there is no release.
func (w *worker) lastRevision() (*release.Release, error) {
	rel, err := w.cfg.Releases.Last(w.job.name)
	if errors.Is(err, driver.ErrReleaseNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking for the release in namespace %s: %w", w.job.namespace, err)
	}
	return rel, nil
}

func (w *worker) apply(ctx context.Context, ch *chart.Chart, values map[string]any) error {
	last, err := w.lastRevision()
	if err != nil {
		return err
	}
	if superseded(w.job, last) {
		w.report.last("release %s is at revision %d (%s), not at %d as when this job was made: nothing to do", w.job.name, last.Version, last.Info.Status, w.job.expected)
		return nil
	}
	var status release.Status
	if last != nil {
		if err = w.rememberServed(); err == nil {
			last, err = w.lastRevision()
		}
		if err != nil {
			return err
		}
	}
	if last == nil {
		w.report.say("there is no release %s in namespace %s", w.job.name, w.job.namespace)
	} else {
		status = last.Info.Status
		w.report.say("release %s in namespace %s is %s at revision %d: %s", w.job.name, w.job.namespace, status, last.Version, last.Info.Description)
	}
	steps, refused := plan(w.job, status)
	var rel *release.Release
	for _, s := range steps {
		w.report.last("release %s: %s (chart %s %s, namespace %s)", w.job.name, s, ch.Name(), ch.Metadata.Version, w.job.namespace)
		switch s {
		case markFailed:
			last.SetStatus(release.StatusFailed, fmt.Sprintf("was %s when job started: interrupted", status))
			err = w.cfg.Releases.Update(last)
		case uninstall:
			err = w.uninstall()
		case install, replace:
			rel, err = w.install(ctx, ch, values, s == replace)
		case upgrade:
			rel, err = w.upgrade(ctx, ch, values)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
	}
	if refused != nil {
		return refused
	}
	if notes := strings.TrimSpace(rel.Info.Notes); notes != "" {
		w.report.say("notes of the chart:\n%s", notes)
	}
	w.report.last("release %s is deployed at revision %d: chart %s %s in namespace %s", rel.Name, rel.Version, ch.Name(), ch.Metadata.Version, rel.Namespace)
	return nil
}

func (w *worker) install(ctx context.Context, ch *chart.Chart, values map[string]any, again bool) (*release.Release, error) {
	a := action.NewInstall(w.cfg)
	a.ReleaseName, a.Namespace = w.job.name, w.job.namespace
	a.CreateNamespace = w.job.createNamespace
	a.TakeOwnership = w.job.takeOwnership
	a.Timeout = w.job.timeout
	a.Replace = again
	a.Labels = w.job.labels()
	return a.RunWithContext(ctx, ch, values)
}

func (w *worker) upgrade(ctx context.Context, ch *chart.Chart, values map[string]any) (*release.Release, error) {
	a := action.NewUpgrade(w.cfg)
	a.Namespace = w.job.namespace
	a.TakeOwnership = w.job.takeOwnership
	a.Timeout = w.job.timeout
	a.MaxHistory = maxHistory
	a.Labels = w.job.labels()
	// What a HelmChart no longer says must not stay in force.
	a.ResetValues = true
	return a.RunWithContext(ctx, w.job.name, ch, values)
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

func (w *worker) delete() error {
	last, err := w.lastRevision()
	if err != nil {
		return err
	}
	if last == nil {
		w.report.last("there is no release %s in namespace %s: nothing to delete", w.job.name, w.job.namespace)
		return nil
	}
	if err := w.rememberServed(); err != nil {
		w.report.say("going on with what the release remembers: %v", err)
	}
	w.report.last("release %s: uninstall (%s at revision %d, namespace %s)", w.job.name, last.Info.Status, last.Version, w.job.namespace)
	if err := w.uninstall(); err != nil {
		return err
	}
	w.report.last("release %s is uninstalled from namespace %s", w.job.name, w.job.namespace)
	return nil
}

// rememberServed brings what the release remembers up to what this Kubernetes serves.
func (w *worker) rememberServed() error {
	if w.cfg.RESTClientGetter == nil {
		return nil // no cluster to ask
	}
	d, err := w.cfg.RESTClientGetter.ToDiscoveryClient()
	if err != nil {
		return fmt.Errorf("asking what the Kubernetes API serves: %w", err)
	}
	return w.modernise(d)
}

func (w *worker) modernise(d discovery.ServerResourcesInterface) error {
	served, err := servedBy(d)
	if err != nil {
		return err
	}
	revisions, err := w.cfg.Releases.History(w.job.name)
	if err != nil {
		return fmt.Errorf("reading the release's history: %w", err)
	}
	newest := 0
	for _, rel := range revisions {
		newest = max(newest, rel.Version)
	}
	for _, rel := range revisions {
		if rel.Version < newest && (rel.Info.Status == release.StatusSuperseded || rel.Info.Status == release.StatusUninstalled) {
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
