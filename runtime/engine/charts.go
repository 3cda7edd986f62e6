package engine

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/k3s-io/k3s/pkg/cli/cmds"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/rancher/rke2/runtime/packaged"
	"github.com/rancher/rke2/runtime/timeline"
)

const (
	// chartLabel is on the jobs and pods that install a chart, with its name.
	chartLabel = "helmcharts.helm.cattle.io/chart"
	// releaseAnnotation is on what Helm made, with the release's name: the chart's.
	releaseAnnotation = "meta.helm.sh/release-name"
	// madeByHelm selects it.
	madeByHelm = "app.kubernetes.io/managed-by=Helm"
	// together is how long is waited for more changes before charts are looked at.
	together = 100 * time.Millisecond
	// unchangedJob is how long after the API server is up a chart whose manifest changed
	// may keep its old job: what changed was nothing that is installed.
	unchangedJob = 20 * time.Second
	// chartPatience is when nobody waits for charts any more.
	chartPatience = 15 * time.Minute
)

// reportCharts marks when all charts that this server deploys are installed and the pods
// of what they made are Ready, and logs how long each took. It watches, and ends when all
// are up. What one still waits for after minutes is logged once.
func (e *Executor) reportCharts(ctx context.Context) {
	charts := e.awaited()
	if len(charts) == 0 {
		return
	}
	e.goWith(ctx, func(ctx context.Context) {
		if wait(ctx, e.apiServerReady) != nil {
			return
		}
		client, err := e.supervisor()
		if err == nil {
			err = e.watchCharts(ctx, client, charts)
		}
		if err != nil && ctx.Err() == nil {
			e.log.Warn("when the charts are up is not known", "error", err)
		}
	})
}

// awaited are the charts that jobs install: not those that the operator told the deploy
// controller to skip.
func (e *Executor) awaited() []packaged.Chart {
	if cmds.ServerConfig.DisableHelmController || cmds.ServerConfig.DisableAPIServer || e.resets() {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(e.content.Charts().Chosen), func(c packaged.Chart) bool {
		_, err := os.Stat(filepath.Join(e.serverDir(), "manifests", c.File+".skip"))
		return !c.Helm || err == nil
	})
}

// watchCharts returns when all charts are up, ctx ends or patience does.
func (e *Executor) watchCharts(ctx context.Context, client kubernetes.Interface, charts []packaged.Chart) error {
	ctx, cancel := context.WithTimeout(ctx, chartPatience)
	defer cancel()
	rollout, err := newRollout(ctx, client, charts)
	if err != nil {
		return err
	}
	line := e.content.Timeline()
	rollout.started, rollout.changed = line.Started(), e.content.Charts().Changed
	up, slow := time.Now(), time.After(slowStart)
	for current := false; ; {
		waits := []string{"pods of this node"}
		if !current {
			current = e.podsRun(ctx, client) == nil
		}
		if current {
			waits = rollout.look(time.Now(), time.Since(up) > unchangedJob)
		}
		if len(waits) == 0 {
			line.Mark(timeline.Charts)
			line.Log(e.log)
			e.log.Info("charts are up", "start", string(line.Kind()), "seconds", rollout.String())
			return nil
		}
		if line.Has(timeline.Pods) {
			line.Status("running, waiting for charts: " + strings.Join(waits, ", "))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-slow:
			e.log.Warn("charts take long", "waiting for", strings.Join(rollout.explain(ctx, client), "; "))
		case <-rollout.events:
			time.Sleep(together)
		case <-time.After(time.Second): // containers of this node, and old jobs
		}
	}
}

// podsRun says which pod of this node, Ready as the API has it, has a container that the
// runtime does not: after a reboot the API remembers the pods of before.
func (e *Executor) podsRun(ctx context.Context, client kubernetes.Interface) error {
	pods, err := client.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + e.node.AgentConfig.NodeName, ResourceVersion: "0"})
	if err != nil {
		return err
	}
	running, err := e.runningContainers(ctx)
	if err != nil {
		return err
	}
	return remembered(pods.Items, running)
}

func remembered(pods []corev1.Pod, running map[string]bool) error {
	for _, pod := range pods {
		for _, c := range pod.Status.ContainerStatuses {
			if _, id, _ := strings.Cut(c.ContainerID, "://"); c.Ready && c.State.Running != nil && !running[id] {
				return fmt.Errorf("pod %s/%s, whose container %s runs no more", pod.Namespace, pod.Name, c.Name)
			}
		}
	}
	return nil
}

// rollout is how far charts are.
type rollout struct {
	charts  []packaged.Chart
	changed []string  // charts whose manifest changed with this start
	started time.Time // the start
	jobs    cache.Store
	made    []cache.Store // what Helm made
	events  chan struct{}

	installed, ready map[string]time.Duration // since the start, when it was seen
}

// newRollout watches the jobs that install charts, and what Helm makes, until ctx ends.
func newRollout(ctx context.Context, client kubernetes.Interface, charts []packaged.Chart) (*rollout, error) {
	r := &rollout{charts: charts, events: make(chan struct{}, 1), installed: map[string]time.Duration{}, ready: map[string]time.Duration{}}
	selecting := func(selector string) informers.SharedInformerFactory {
		return informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = selector }))
	}
	jobs, made := selecting(chartLabel), selecting(madeByHelm)
	all := []cache.SharedIndexInformer{
		jobs.Batch().V1().Jobs().Informer(),
		made.Apps().V1().Deployments().Informer(), made.Apps().V1().DaemonSets().Informer(), made.Apps().V1().StatefulSets().Informer(),
	}
	for i, informer := range all {
		tell := func(any) {
			select {
			case r.events <- struct{}{}:
			default: // it is told already
			}
		}
		if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: tell, UpdateFunc: func(_, now any) { tell(now) }, DeleteFunc: tell}); err != nil {
			return nil, err
		}
		if i == 0 {
			r.jobs = informer.GetStore()
		} else {
			r.made = append(r.made, informer.GetStore())
		}
	}
	for _, factory := range []informers.SharedInformerFactory{jobs, made} {
		factory.Start(ctx.Done())
		for kind, synced := range factory.WaitForCacheSync(ctx.Done()) {
			if !synced {
				return nil, fmt.Errorf("watching %s: %w", kind, context.Cause(ctx))
			}
		}
	}
	return r, nil
}

// look notes which charts are up by now, and says which are not. settled tells that jobs
// of changed charts would have been replaced by now if they were to be.
func (r *rollout) look(now time.Time, settled bool) (waits []string) {
	for _, c := range r.charts {
		if !r.jobDone(c, settled) {
			delete(r.installed, c.Name) // it is replaced
			waits = append(waits, c.Name)
			continue
		}
		if _, known := r.installed[c.Name]; !known {
			r.installed[c.Name] = now.Sub(r.started)
		}
		if lacking := r.lacking(c); len(lacking) > 0 {
			delete(r.ready, c.Name)
			waits = append(waits, c.Name)
			continue
		}
		if _, known := r.ready[c.Name]; !known {
			r.ready[c.Name] = now.Sub(r.started)
		}
	}
	return waits
}

func (r *rollout) job(c packaged.Chart) *batchv1.Job {
	found, _, err := r.jobs.GetByKey(c.Namespace + "/helm-install-" + c.Name)
	job, ok := found.(*batchv1.Job)
	if err != nil || !ok {
		return nil
	}
	return job
}

func (r *rollout) jobDone(c packaged.Chart, settled bool) bool {
	job := r.job(c)
	if job == nil || job.DeletionTimestamp != nil || job.Status.Succeeded == 0 {
		return false
	}
	return settled || !slices.Contains(r.changed, c.Name) || r.ofThisStart(job)
}

// ofThisStart tells whether a job ended after the start, in the whole seconds that it has.
func (r *rollout) ofThisStart(job *batchv1.Job) bool {
	return job.Status.CompletionTime != nil && !job.Status.CompletionTime.Time.Before(r.started.Truncate(time.Second))
}

// String has for each chart the seconds until its job was done (- where none had to run)
// and until its pods were Ready, in the order in which they were.
func (r *rollout) String() string {
	charts := slices.Clone(r.charts)
	slices.SortStableFunc(charts, func(a, b packaged.Chart) int { return int(r.ready[a.Name] - r.ready[b.Name]) })
	var words []string
	for _, c := range charts {
		job := "-"
		if j := r.job(c); j != nil && r.ofThisStart(j) {
			job = fmt.Sprintf("%.1f", r.installed[c.Name].Seconds())
		}
		words = append(words, fmt.Sprintf("%s=%s/%.1f", c.Name, job, r.ready[c.Name].Seconds()))
	}
	return strings.Join(words, " ")
}
