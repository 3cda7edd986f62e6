package main

import (
	"errors"
	"io"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/kube"
)

// frail is a Kubernetes that refuses objects which say so.
type frail struct {
	kube.Interface
	refuse string
	last   string
}

func (f *frail) Build(manifest io.Reader, validate bool) (kube.ResourceList, error) {
	text, err := io.ReadAll(manifest)
	if err != nil {
		return nil, err
	}
	f.last = string(text) // Helm builds the objects that it goes to last
	return f.Interface.Build(strings.NewReader(f.last), validate)
}

func (f *frail) Update(original, target kube.ResourceList, force bool) (*kube.Result, error) {
	if f.refuse != "" && strings.Contains(f.last, f.refuse) {
		return &kube.Result{}, errors.New("admission webhook said no")
	}
	return f.Interface.Update(original, target, force)
}

// frailBench has release web, greeting hello, and refuses bye.
func frailBench(t *testing.T, p policy) (*bench, *frail) {
	t.Helper()
	b := newBench(t, p)
	f := &frail{Interface: b.kube, refuse: "greeting: bye"}
	b.cfg.KubeClient = f
	if err := b.apply(t.Context(), webChart(), map[string]any{"greeting": "hello"}); err != nil {
		t.Fatal(err)
	}
	return b, f
}

// tries one job and compares what it left.
func (b *bench) tries(t *testing.T, ch *chart.Chart, greeting, failure, statuses string) {
	t.Helper()
	b.log.Reset()
	err := b.apply(t.Context(), ch, map[string]any{"greeting": greeting})
	if (err != nil) != (failure != "") || err != nil && !strings.Contains(err.Error(), failure) || b.statuses(t) != statuses {
		t.Fatalf("%v, left %q; want %q, %q; log:\n%s", err, b.statuses(t), failure, statuses, b.log)
	}
}

const rolledBackText = "admission webhook said no; rolled back to revision "

// What runs is brought back each time; what happens then is the policy's.
func TestFailedUpgradeIsRolledBack(t *testing.T) {
	for p, third := range map[policy]struct{ failure, statuses string }{
		abort: {"failurePolicy is abort", "superseded failed superseded failed deployed"},
		retry: {rolledBackText + "5", "superseded failed superseded failed superseded failed deployed"},
		// The third try installs: there is nothing that could be refused.
		reinstall: {"", "deployed"},
	} {
		t.Run(string(p), func(t *testing.T) {
			b, f := frailBench(t, p)
			b.tries(t, webChart(), "bye", rolledBackText+"1, which is deployed again as revision 3", "superseded failed deployed")
			if rel, err := b.cfg.Releases.Deployed("web"); err != nil || !strings.Contains(rel.Manifest, "greeting: hello") {
				t.Errorf("deployed: %v\n%v", err, rel)
			}
			b.tries(t, webChart(), "bye", rolledBackText+"3", "superseded failed superseded failed deployed")
			b.tries(t, webChart(), "bye", third.failure, third.statuses)
			if p == reinstall {
				return
			}
			// Something else is a new attempt.
			b.tries(t, webChart(), "hey", "", strings.Replace(third.statuses, "deployed", "superseded deployed", 1))
			f.refuse = ""
			b.tries(t, webChart(), "bye", "", strings.Replace(third.statuses, "deployed", "superseded superseded deployed", 1))
		})
	}
}

// One failure does not make a policy apply.
func TestUpgradeFailsOnce(t *testing.T) {
	b, f := frailBench(t, abort)
	b.tries(t, webChart(), "bye", rolledBackText, "superseded failed deployed")
	f.refuse = ""
	b.tries(t, webChart(), "bye", "", "superseded failed superseded deployed")
	if log := b.log.String(); !strings.Contains(log, "that failed: 1; it is tried again") {
		t.Errorf("log:\n%s", log)
	}
}

// Nothing works while the API server has trouble, not even going back.
func TestRollbackFails(t *testing.T) {
	b := newBench(t, reinstall)
	b.tries(t, webChart(), "hello", "", "deployed")
	b.kube.UpdateError = errors.New("etcd is down")
	b.tries(t, webChart(), "bye", "etcd is down; rolling back to revision 1 failed too: etcd is down", "deployed superseded failed")
	b.tries(t, webChart(), "bye", "rolling back to revision 1 failed too", "deployed superseded failed superseded failed")
	b.kube.UpdateError = nil
	b.tries(t, webChart(), "bye", "", "deployed") // the policy
}

// A chart that is not the same is another attempt, in whatever order its charts were read.
func TestAttempt(t *testing.T) {
	digest := func(change func(*chart.Chart), values map[string]any) string {
		t.Helper()
		ch := webChart()
		ch.AddDependency(&chart.Chart{Metadata: &chart.Metadata{Name: "a"}}, &chart.Chart{Metadata: &chart.Metadata{Name: "b"}})
		change(ch)
		sum, err := attemptOf(ch, values)
		if err != nil {
			t.Fatal(err)
		}
		return sum
	}
	same := func(*chart.Chart) {}
	first := digest(same, map[string]any{"a": 1, "b": 2})
	swapped := func(ch *chart.Chart) {
		d := ch.Dependencies()
		ch.SetDependencies(d[1], d[0])
	}
	if got := digest(swapped, map[string]any{"b": 2, "a": 1}); got != first {
		t.Error("the order of charts or values counts")
	}
	for name, change := range map[string]func(*chart.Chart){
		"template":   func(ch *chart.Chart) { ch.Templates[0].Data = []byte("a: b") },
		"value":      func(ch *chart.Chart) { ch.Values["greeting"] = "hey" },
		"version":    func(ch *chart.Chart) { ch.Metadata.Version = "1.0.1" },
		"dependency": func(ch *chart.Chart) { ch.Dependencies()[1].Metadata.Version = "2" },
	} {
		if digest(change, map[string]any{"a": 1, "b": 2}) == first {
			t.Errorf("another %s is the same attempt", name)
		}
	}
	if digest(same, map[string]any{"a": 1}) == first {
		t.Error("other values are the same attempt")
	}
}
