package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chartutil"
	kubefake "helm.sh/helm/v3/pkg/kube/fake"
	"helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/storage"
	"helm.sh/helm/v3/pkg/storage/driver"
)

// bench is a worker on releases in memory and a Kubernetes that says yes.
type bench struct {
	*worker
	kube *kubefake.FailingKubeClient
	log  *bytes.Buffer
}

func newBench(t *testing.T, p policy) *bench {
	t.Helper()
	b := &bench{
		kube: &kubefake.FailingKubeClient{PrintingKubeClient: kubefake.PrintingKubeClient{Out: io.Discard, LogOutput: io.Discard}},
		log:  new(bytes.Buffer),
	}
	mem := driver.NewMemory()
	mem.SetNamespace("apps")
	r := &report{out: b.log, termination: filepath.Join(t.TempDir(), "none")}
	b.worker = &worker{
		job: job{verb: verbInstall, name: "web", namespace: "apps", policy: p, timeout: time.Second, expected: -1},
		cfg: &action.Configuration{
			Releases: storage.Init(mem), KubeClient: b.kube, Capabilities: chartutil.DefaultCapabilities, Log: r.helm,
			HookOutputFunc: func(_, _, _ string) io.Writer { return io.Discard },
		},
		report: r,
	}
	return b
}

func webChart() *chart.Chart {
	return &chart.Chart{
		Metadata: &chart.Metadata{APIVersion: "v2", Name: "web", Version: "1.0.0"},
		Values:   map[string]any{"greeting": "hello"},
		Templates: []*chart.File{
			{Name: "templates/cm.yaml", Data: []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web}\ndata: {greeting: {{ .Values.greeting }}, revision: r{{ .Release.Revision }}}\n")},
			{Name: "templates/NOTES.txt", Data: []byte("greeted with {{ .Values.greeting }}")},
		},
	}
}

// has puts a release of that status into the store, as its revision.
func (b *bench) has(t *testing.T, status release.Status, revision int, labels map[string]string) {
	t.Helper()
	rel := release.Mock(&release.MockReleaseOptions{Name: "web", Namespace: "apps", Version: revision, Status: status, Chart: webChart()})
	rel.Hooks, rel.Labels = nil, labels
	if err := b.cfg.Releases.Create(rel); err != nil {
		t.Fatal(err)
	}
}

func (b *bench) statuses(t *testing.T) string {
	t.Helper()
	rels, err := b.cfg.Releases.History("web")
	if err != nil && !errors.Is(err, driver.ErrReleaseNotFound) {
		t.Fatal(err)
	}
	by := map[int]string{}
	for _, r := range rels {
		by[r.Version] = r.Info.Status.String()
	}
	var out []string
	for v := 1; v < 20; v++ {
		if s, ok := by[v]; ok {
			out = append(out, s)
		}
	}
	return strings.Join(out, " ")
}

func TestPlan(t *testing.T) {
	fail := []release.Status{"pending-install", "pending-upgrade", "pending-rollback", "superseded", "uninstalling", "unknown"}
	for _, p := range []policy{abort, reinstall, retry} {
		for status, want := range map[release.Status][]step{"": {install}, "uninstalled": {replace}, "deployed": {upgrade}} {
			if got, err := plan(job{policy: p}, status, false); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%q under %s: %v, %v; want %v", status, p, got, err, want)
			}
		}
	}
	for _, c := range []struct {
		policy  policy
		again   bool
		want    []step
		refused bool
	}{
		{reinstall, false, []step{uninstall, install}, false},
		{reinstall, true, []step{upgrade}, false},
		{retry, false, []step{upgrade}, false},
		{retry, true, []step{upgrade}, false},
		{abort, false, nil, true},
		{abort, true, []step{upgrade}, false},
		{"", true, nil, true}, // a policy that nobody set does nothing
	} {
		got, err := plan(job{policy: c.policy}, "failed", c.again)
		if !reflect.DeepEqual(got, c.want) || errors.Is(err, errAbort) != c.refused {
			t.Errorf("failed under %s: %v, %v", c.policy, got, err)
		}
		for _, s := range fail {
			got, err := plan(job{policy: c.policy}, s, c.again)
			if want := append([]step{markFailed}, c.want...); !reflect.DeepEqual(got, want) || errors.Is(err, errAbort) != c.refused {
				t.Errorf("%s under %s: %v, %v; want %v", s, c.policy, got, err, want)
			}
		}
	}
}

// What becomes of each state of a release, with Helm itself doing it.
func TestApply(t *testing.T) {
	for _, c := range []struct {
		last   release.Status
		policy policy
		want   string // statuses of the revisions that are left
		err    string
	}{
		{"", reinstall, "deployed", ""},
		{"deployed", reinstall, "superseded deployed", ""},
		{"deployed", abort, "superseded deployed", ""},
		{"uninstalled", abort, "superseded deployed", ""},
		{"failed", reinstall, "deployed", ""},
		{"failed", retry, "superseded deployed", ""},
		{"failed", abort, "failed", "failurePolicy is abort"},
		{"pending-install", reinstall, "deployed", ""},
		{"pending-install", retry, "superseded deployed", ""},
		{"pending-install", abort, "failed", "failurePolicy is abort"},
		{"pending-upgrade", reinstall, "deployed", ""},
		{"pending-upgrade", retry, "superseded deployed", ""},
		{"pending-rollback", reinstall, "deployed", ""},
		{"superseded", reinstall, "deployed", ""},
		{"superseded", retry, "superseded deployed", ""},
		{"uninstalling", reinstall, "deployed", ""},
		{"uninstalling", retry, "superseded deployed", ""},
		{"uninstalling", abort, "failed", "failurePolicy is abort"},
	} {
		t.Run(string(c.last)+" "+string(c.policy), func(t *testing.T) {
			b := newBench(t, c.policy)
			if c.last != "" {
				b.has(t, c.last, 1, nil)
			}
			err := b.apply(context.Background(), webChart(), map[string]any{})
			if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
				t.Fatalf("%v, want %q", err, c.err)
			}
			if got := b.statuses(t); got != c.want {
				t.Errorf("left %q, want %q; log:\n%s", got, c.want, b.log)
			}
		})
	}
}

// An upgrade that nobody finished is taken up again, and what runs stays meanwhile.
func TestInterruptedUpgrade(t *testing.T) {
	for _, p := range []policy{reinstall, retry, abort} {
		for _, status := range []release.Status{"pending-upgrade", "pending-rollback"} {
			b := newBench(t, p)
			b.has(t, "deployed", 1, nil)
			b.has(t, status, 2, nil)
			if err := b.apply(context.Background(), webChart(), nil); err != nil {
				t.Errorf("%s: %v", p, err)
			}
			if got := b.statuses(t); got != "superseded failed deployed" {
				t.Errorf("%s left %q", p, got)
			}
		}
	}
}

// What ended a try that did not run its course: a revision that Helm itself marked as
// failed when it was told to stop, or an earlier job found and could do no more about.
func TestCutShort(t *testing.T) {
	for said, want := range map[string]bool{
		`Upgrade "web" failed: context canceled`:                true,
		interrupted + "pending-upgrade":                         true,
		interrupted + "pending-install":                         false,
		`Upgrade "web" failed: timed out waiting for condition`: false,
		"Upgrade complete":                                      false,
	} {
		rel := &release.Release{Info: &release.Info{Status: release.StatusFailed, Description: said}}
		if got := cutShort(rel); got != want {
			t.Errorf("%q: %v", said, got)
		}
	}
}

func TestFailedInstallIsReinstalled(t *testing.T) {
	b := newBench(t, reinstall)
	b.kube.WatchUntilReadyError = errors.New("job migrate failed: BackoffLimitExceeded")
	ch := webChart()
	ch.Templates = append(ch.Templates, &chart.File{Name: "templates/migrate.yaml", Data: []byte(
		"apiVersion: batch/v1\nkind: Job\nmetadata: {name: migrate, annotations: {helm.sh/hook: post-install}}\n")})
	ctx := context.Background()
	if err := b.apply(ctx, ch, nil); err == nil || !strings.Contains(err.Error(), "BackoffLimitExceeded") || b.statuses(t) != "failed" {
		t.Fatalf("%v, left %q", err, b.statuses(t))
	}
	b.kube.WatchUntilReadyError = nil
	if err := b.apply(ctx, ch, nil); err != nil || b.statuses(t) != "deployed" {
		t.Errorf("%v, left %q; log:\n%s", err, b.statuses(t), b.log)
	}
}

// A reinstall whose uninstall fails must not install over what is left.
func TestReinstallNeedsItsUninstall(t *testing.T) {
	b := newBench(t, reinstall)
	b.has(t, "failed", 1, nil)
	b.kube.BuildError = errors.New("no matches for kind")
	err := b.apply(context.Background(), webChart(), nil)
	if err == nil || !strings.Contains(err.Error(), "uninstall") || b.statuses(t) != "uninstalling" {
		t.Errorf("%v, left %q", err, b.statuses(t))
	}
}

// What a HelmChart no longer sets is not kept from the revision before.
func TestUpgradeForgetsOldValues(t *testing.T) {
	b := newBench(t, abort)
	ctx := context.Background()
	if err := b.apply(ctx, webChart(), map[string]any{"greeting": "hey"}); err != nil {
		t.Fatal(err)
	}
	if err := b.apply(ctx, webChart(), map[string]any{}); err != nil {
		t.Fatal(err)
	}
	rel, err := b.cfg.Releases.Last("web")
	if err != nil || !strings.Contains(rel.Manifest, "greeting: hello") || !strings.Contains(rel.Manifest, "revision: r2") {
		t.Errorf("%v, manifest:\n%s", err, rel.Manifest)
	}
	if log := b.log.String(); !strings.Contains(log, "greeted with hey") || !strings.Contains(log, "release web is deployed at revision 2: chart web 1.0.0 in namespace apps") {
		t.Errorf("log:\n%s", log)
	}
}

func TestHistoryIsLimited(t *testing.T) {
	b := newBench(t, abort)
	for range maxHistory + 3 {
		if err := b.apply(context.Background(), webChart(), nil); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(strings.Fields(b.statuses(t))); n != maxHistory {
		t.Errorf("%d revisions are kept", n)
	}
}

func TestConfigHashIsALabel(t *testing.T) {
	b := newBench(t, abort)
	for _, hash := range []string{"ONE", "TWO"} {
		b.job.configHash = hash
		if err := b.apply(context.Background(), webChart(), nil); err != nil {
			t.Fatal(err)
		}
		rel, err := b.cfg.Releases.Last("web")
		if err != nil || rel.Labels[configHashLabel] != hash {
			t.Errorf("%v, labels %v", err, rel.Labels)
		}
	}
}

// helm-controller v0.17 tells which revision it saw.
func TestSuperseded(t *testing.T) {
	for _, c := range []struct {
		name     string
		expected int
		hash     string // the job's
		status   release.Status
		revision int
		label    string
		want     bool
	}{
		{"not told", -1, "", "deployed", 3, "", false},
		{"as seen", 3, "A", "deployed", 3, "B", false},
		{"somebody else upgraded", 3, "A", "deployed", 4, "B", true},
		{"somebody else's failed", 3, "A", "failed", 4, "B", true},
		{"this job did it in an earlier try", 3, "A", "deployed", 4, "A", true},
		{"this job failed in an earlier try", 3, "A", "failed", 4, "A", false},
		{"without hash, deployed", 3, "", "deployed", 4, "", true},
		{"without hash, failed", 3, "", "failed", 4, "", false},
	} {
		last := &release.Release{Version: c.revision, Info: &release.Info{Status: c.status}, Labels: map[string]string{configHashLabel: c.label}}
		if got := superseded(job{expected: c.expected, configHash: c.hash}, last); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	if superseded(job{expected: 3}, nil) {
		t.Error("a release that is gone has to be installed")
	}
	b := newBench(t, abort)
	b.has(t, "deployed", 4, nil)
	b.job.expected = 3
	if err := b.apply(context.Background(), webChart(), nil); err != nil || b.statuses(t) != "deployed" {
		t.Errorf("%v, left %q", err, b.statuses(t))
	}
}

func TestDelete(t *testing.T) {
	for _, status := range []release.Status{"", "deployed", "failed", "pending-install", "pending-upgrade", "uninstalling", "uninstalled", "superseded"} {
		b := newBench(t, abort)
		b.job.verb = verbDelete
		if status != "" {
			b.has(t, status, 1, nil)
		}
		if err := b.delete(context.Background()); err != nil || b.statuses(t) != "" {
			t.Errorf("%q: %v, left %q", status, err, b.statuses(t))
		}
		if status == "" && !strings.Contains(b.log.String(), "nothing to delete") {
			t.Errorf("log: %s", b.log)
		}
	}
}

// TestDeleteFails: a job that Helm can't do ends all the same, or its HelmChart never
// would; one that the API did not answer is tried again, or what it installed would stay.
func TestDeleteFails(t *testing.T) {
	for _, away := range []bool{false, true} {
		b := newBench(t, abort)
		b.job.verb = verbDelete
		b.has(t, "deployed", 1, nil)
		k := &silent{FailingKubeClient: b.kube, away: away}
		k.BuildError = errors.New("no such kind")
		b.cfg.KubeClient = k
		err := b.delete(context.Background())
		var uninstall *uninstallError
		if err == nil || errors.As(err, &uninstall) == away {
			t.Errorf("the API is away: %t, error %T %v", away, err, err)
		}
	}
}

// silent is a cluster whose API may be away.
type silent struct {
	*kubefake.FailingKubeClient
	away bool
}

func (s *silent) IsReachable() error {
	if s.away {
		return errors.New("connection refused")
	}
	return nil
}

func TestInterrupted(t *testing.T) {
	b := newBench(t, retry)
	b.has(t, "deployed", 1, nil)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	// Either side may win: the upgrade, or the signal. Nothing may be left pending.
	err := b.apply(ctx, webChart(), nil)
	if err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if h := b.statuses(t); strings.Contains(h, "pending") {
		t.Errorf("left %q", h)
	}
}
