//go:build linux

package scenarios

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rancher/rke2/tests/distribution"
	"github.com/rancher/rke2/tests/sealed"
	"github.com/rancher/rke2/tests/sealed/node"
)

// TestHelmCharts: what HelmChart resources ask for is done by the product's own helm job,
// from wherever a sealed site keeps its charts; and what goes wrong on the way is said,
// and comes right.
func TestHelmCharts(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	s := newHelmSite(ctx, t)
	for _, part := range []struct {
		name string
		run  func(context.Context, *testing.T, *helmSite)
	}{
		{"before there is a network", chartBeforeNetwork},
		{"all else", allElse},
		{"reached for nothing outside", func(ctx context.Context, t *testing.T, s *helmSite) { reachedNothing(ctx, t, s.scenario) }},
	} {
		started := time.Now()
		if !t.Run(part.name, func(t *testing.T) { part.run(ctx, t, s) }) {
			t.Fatalf("%q failed: what comes after it stands on it", part.name)
		}
		t.Logf("%5.1f s  %s", time.Since(started).Seconds(), part.name)
	}
}

// allElse is done at the same time: each part has charts of its own.
func allElse(ctx context.Context, t *testing.T, s *helmSite) {
	for _, part := range []struct {
		name string
		run  func(context.Context, *testing.T, *helmSite)
	}{
		{"an upgrade that fails is rolled back", chartRollsBack}, // the longest
		{"values, and what overrides them", chartUpgrades},
		{"definitions", chartDefines},
		{"a job that is killed half way", chartJobKilled},
		{"Helm 2", chartOfHelm2},
		{"a repository", chartFromRepository},
		{"a registry", chartFromRegistry},
		{"helm", helmInstalls},
	} {
		t.Run(part.name, func(t *testing.T) {
			t.Parallel()
			started := time.Now()
			part.run(ctx, t, s)
			t.Logf("%.1f s", time.Since(started).Seconds())
		})
	}
}

// chartBeforeNetwork: a chart among the server's manifests is installed while the node has
// no network, as the one that brings it must be.
func chartBeforeNetwork(ctx context.Context, t *testing.T, s *helmSite) {
	if err := os.Rename(s.Path(conflist), s.Path(conflist+".off")); err != nil {
		t.Fatal(err)
	}
	if err := s.WriteFile(node.DataDir+"/server/manifests/early.yaml", []byte(s.chart(t, "early", "greeter", nil, nil))); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.WaitAPI(ctx, bootLimit); err != nil {
		t.Fatal(err)
	}
	said := s.awaitSaid(ctx, t, "early", "there is no release early in namespace site", "Greeted with hello.",
		"release early is deployed at revision 1: chart greeter 1.0.0 in namespace site", "ended with 0: ")
	if err := s.networkless(ctx); err != nil {
		t.Fatal(err)
	}
	t.Logf("with no network the job says:\n%s", said)
	report(t, "a bootstrap chart deployed, from the node's cold start, without a network", time.Since(s.Started()))
	s.awaitRevisions(ctx, t, "early", "deployed")
	s.greets(ctx, t, "early", "hello")
	if err := os.Rename(s.Path(conflist+".off"), s.Path(conflist)); err != nil {
		t.Fatal(err)
	}
	if err := s.WaitReady(ctx, bootLimit); err != nil {
		t.Fatal(err)
	}
}

// chartUpgrades: other values are an upgrade, so is a HelmChartConfig and its end; what is
// taken away is uninstalled.
func chartUpgrades(ctx context.Context, t *testing.T, s *helmSite) {
	started := time.Now()
	s.applies(ctx, t, s.chart(t, "early", "greeter", fields{"greeting": "hey"}, nil))
	s.awaitRevisions(ctx, t, "early", "superseded deployed")
	report(t, "an upgrade by other values of a HelmChart, beside others", time.Since(started))
	s.greets(ctx, t, "early", "hey")
	s.applies(ctx, t, manifest(t, object("HelmChartConfig", "early", fields{"valuesContent": "greeting: welcome\n"})))
	s.awaitRevisions(ctx, t, "early", "superseded superseded deployed")
	s.greets(ctx, t, "early", "welcome")
	s.runs(ctx, t, "kubectl", "delete", "helmchartconfig", "-n", "kube-system", "early", "--timeout=30s")
	s.awaitRevisions(ctx, t, "early", "superseded superseded superseded deployed")
	s.greets(ctx, t, "early", "hey")
	s.deletes(ctx, t, "early")
}

// chartDefines: a chart's objects wait for the chart that defines their kind, whichever is
// first, and a definition is upgraded with its chart.
func chartDefines(ctx context.Context, t *testing.T, s *helmSite) {
	s.applies(ctx, t, s.chart(t, "card", "greeter", fields{"card": true, "greeting": "a card"}, nil))
	s.applies(ctx, t, s.chart(t, "cards", "cards", nil, nil))
	s.awaitRevisions(ctx, t, "cards", "deployed")
	s.awaitRevisions(ctx, t, "card", "deployed")
	s.applies(ctx, t, s.chart(t, "cards", "cards", fields{"shortName": "ec"}, nil))
	s.awaitRevisions(ctx, t, "cards", "superseded deployed")
	err := sealed.Wait(ctx, "the definition's new name", stepLimit, func(ctx context.Context) error {
		out, err := s.Kubectl(ctx, "get", "ec", "-n", siteNamespace, "card", "-o", "jsonpath={.spec.text}")
		if err == nil && out != "a card" {
			err = fmt.Errorf("it says %q", out)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// hook is the value that has the greeter run a job of the workload's image.
func (s *helmSite) hook(when, waits string, args ...string) fields {
	h := fields{"when": when, "image": s.echo, "args": args}
	if waits != "" {
		h["waits"] = waits
	}
	return h
}

// chartRollsBack: what ran before an upgrade that fails runs again, whether its hook fails
// or never comes to an end; a better one goes on from there.
func chartRollsBack(ctx context.Context, t *testing.T, s *helmSite) {
	limit := fields{"timeout": "60s", "failurePolicy": "abort"}
	s.applies(ctx, t, s.chart(t, "fragile", "greeter", nil, limit))
	s.awaitRevisions(ctx, t, "fragile", "deployed")
	before := s.greeting(ctx, t, "fragile").UID

	s.applies(ctx, t, s.chart(t, "fragile", "greeter", fields{"greeting": "hey", "hook": s.hook("post-upgrade", "", "no-such-word")}, limit))
	said := s.awaitSaid(ctx, t, "fragile", `echo: unknown command "no-such-word"`, // the hook's own words
		"post-upgrade hooks failed: 1 error occurred: job fragile-hook failed: BackoffLimitExceeded; rolled back to revision 1, which is deployed again as revision 3")
	t.Logf("of an upgrade that fails the job says:\n%s", said)
	all, err := s.revisions(ctx, "fragile")
	if err != nil || !strings.HasPrefix(all, "superseded failed ") {
		t.Errorf("revisions %q, %v", all, err)
	}

	// It is being tried again. Whatever that is at, it is cut short by the next.
	s.applies(ctx, t, s.chart(t, "fragile", "greeter", fields{"greeting": "welcome", "hook": s.hook("pre-upgrade", "nothing", "version")}, fields{"timeout": "3s", "failurePolicy": "abort"}))
	said = s.awaitSaid(ctx, t, "fragile", "pre-upgrade hooks failed: 1 error occurred: timed out waiting for the condition; rolled back to revision ")
	t.Logf("of an upgrade that does not end the job says:\n%s", said)
	s.greets(ctx, t, "fragile", "hello")

	s.applies(ctx, t, s.chart(t, "fragile", "greeter", fields{"greeting": "good day", "hook": s.hook("post-upgrade", "", "version")}, limit))
	err = sealed.Wait(ctx, "the better upgrade", stepLimit, func(ctx context.Context) error {
		all, err := s.revisions(ctx, "fragile")
		if err == nil && (!strings.HasSuffix(all, "deployed") || strings.Count(all, "deployed") != 1 || s.greeting(ctx, t, "fragile").Data["greeting"] != "good day") {
			err = fmt.Errorf("revisions %q", all)
		}
		return err
	})
	if err != nil {
		t.Fatalf("%v; its job says:\n%s", err, s.said(ctx, "fragile"))
	}
	if after := s.greeting(ctx, t, "fragile").UID; after != before {
		t.Errorf("it was taken down in between: its object %s is now %s", before, after)
	}
}

// chartJobKilled: whoever comes after a job that was killed in the middle of an upgrade
// says so, and does it again, without taking down what runs.
func chartJobKilled(ctx context.Context, t *testing.T, s *helmSite) {
	s.applies(ctx, t, s.chart(t, "halfway", "greeter", nil, nil))
	s.awaitRevisions(ctx, t, "halfway", "deployed")
	before := s.greeting(ctx, t, "halfway").UID
	s.applies(ctx, t, s.chart(t, "halfway", "greeter", fields{"greeting": "hey", "hook": s.hook("pre-upgrade", "go-on", "version")}, nil))
	s.awaitRevisions(ctx, t, "halfway", "deployed pending-upgrade")
	s.killJob(t, "halfway")
	s.awaitSaid(ctx, t, "halfway", "release halfway in namespace site is pending-upgrade at revision 2", "release halfway: mark as failed", "release halfway: upgrade")
	s.applies(ctx, t, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: go-on, namespace: site}\n")
	s.awaitRevisions(ctx, t, "halfway", "superseded failed deployed")
	s.greets(ctx, t, "halfway", "hey")
	if after := s.greeting(ctx, t, "halfway").UID; after != before {
		t.Errorf("it was taken down in between: its object %s is now %s", before, after)
	}
}

// killJob kills the program of a chart's job, as a power cut does.
func (s *helmSite) killJob(t *testing.T, name string) {
	t.Helper()
	processes, err := s.Find("klipper-helm")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range processes {
		env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", p.Pid))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		if strings.Contains("\x00"+string(env), "\x00NAME="+name+"\x00") {
			if err := syscall.Kill(p.Pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatalf("%d helm jobs run, none for %s", len(processes), name)
}

// chartOfHelm2: what asks for Helm 2 is refused where its author looks, makes no job, and
// can be taken away.
func chartOfHelm2(ctx context.Context, t *testing.T, s *helmSite) {
	for _, version := range []string{"v2", "helm_v2"} {
		name := "old-" + strings.ReplaceAll(version, "_", "-")
		s.applies(ctx, t, s.chart(t, name, "greeter", nil, fields{"helmVersion": version}))
		err := sealed.Wait(ctx, "the refusal of "+version, stepLimit, func(ctx context.Context) error {
			out, err := s.Kubectl(ctx, "get", "helmchart", "-n", "kube-system", name, "-o", `jsonpath={.status.conditions[?(@.type=="Failed")].message}`)
			if err == nil && !strings.Contains(out, "Only Helm v3 charts are supported") {
				err = fmt.Errorf("its status says %q", out)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
		if said := s.said(ctx, name); said != "" {
			t.Errorf("there is a job:\n%s", said)
		}
		s.deletes(ctx, t, name)
	}
}

// chartFromRepository: over HTTPS, with the site's own authority and a password.
func chartFromRepository(ctx context.Context, t *testing.T, s *helmSite) {
	for name, password := range map[string]string{"from-files": distribution.Password, "guessing": "a-guess"} {
		s.applies(ctx, t, manifest(t, fields{
			"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/basic-auth", "metadata": fields{"name": name, "namespace": "kube-system"},
			"stringData": fields{"username": distribution.User, "password": password},
		}))
		s.applies(ctx, t, s.chart(t, name, "", fields{"greeting": "from afar"}, fields{
			"repo": "https://" + helmFiles, "chart": "greeter", "repoCA": s.ca, "authSecret": fields{"name": name},
		}))
	}
	s.awaitRevisions(ctx, t, "from-files", "deployed")
	s.greets(ctx, t, "from-files", "from afar")
	t.Logf("of a chart in a repository the job says:\n%s", s.awaitSaid(ctx, t, "from-files", "fetching https://"+helmFiles+"/greeter-1.0.0.tgz"))
	s.awaitSaid(ctx, t, "guessing", `the server answers 401 Unauthorized to user "operator" of spec.authSecret`)
	s.deletes(ctx, t, "guessing") // it never came to be
}

// chartFromRegistry: from an OCI registry, with the site's own authority and a password.
func chartFromRegistry(ctx context.Context, t *testing.T, s *helmSite) {
	login := base64.StdEncoding.EncodeToString([]byte(distribution.User + ":" + distribution.Password))
	config, err := json.Marshal(fields{"auths": fields{helmRegistry: fields{"auth": login}}})
	if err != nil {
		t.Fatal(err)
	}
	s.applies(ctx, t, manifest(t, fields{
		"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/dockerconfigjson", "metadata": fields{"name": "login", "namespace": "kube-system"},
		"stringData": fields{".dockerconfigjson": string(config)},
	}))
	s.applies(ctx, t, manifest(t, fields{
		"apiVersion": "v1", "kind": "ConfigMap", "metadata": fields{"name": "authority", "namespace": "kube-system"}, "data": fields{"ca.pem": s.ca},
	}))
	spec := fields{"chart": "oci://" + helmRegistry + "/charts/greeter", "version": "1.0.0", "dockerRegistrySecret": fields{"name": "login"}}
	s.applies(ctx, t, s.chart(t, "unknown", "", nil, spec))
	spec["repoCAConfigMap"] = fields{"name": "authority"}
	s.applies(ctx, t, s.chart(t, "from-registry", "", fields{"greeting": "from a registry"}, spec))
	s.awaitRevisions(ctx, t, "from-registry", "deployed")
	s.greets(ctx, t, "from-registry", "from a registry")
	t.Logf("of a chart in a registry the job says:\n%s", s.awaitSaid(ctx, t, "from-registry", "fetching oci://"+helmRegistry+"/charts/greeter"))
	s.awaitSaid(ctx, t, "unknown", "certificate signed by unknown authority; a private authority's certificate goes into spec.repoCA or spec.repoCAConfigMap")
	s.deletes(ctx, t, "unknown")
}

// helmInstalls: Helm's own command line, with the node's kubeconfig, takes an application
// from a folder through its life.
func helmInstalls(ctx context.Context, t *testing.T, s *helmSite) {
	helm := func(args ...string) string {
		t.Helper()
		return s.runs(ctx, t, append([]string{"helm", "--namespace", "people"}, args...)...)
	}
	t.Logf("helm install says:\n%s", helm("install", "app", chartFolders+"/site", "--create-namespace", "--wait", "--timeout", "90s", "--set", "image="+s.echo))
	pods := func() []string {
		t.Helper()
		out, err := s.Kubectl(ctx, "get", "pods", "-n", "people", "-l", "app=app", "--field-selector=status.phase=Running", "-o", "jsonpath={.items[*].status.podIP}")
		if err != nil {
			t.Fatal(err)
		}
		return strings.Fields(out)
	}
	addresses := pods()
	if len(addresses) != 1 {
		t.Fatalf("its pods are %q", addresses)
	}
	client := &charted{server: s.Node}
	if answer, err := client.get(ctx, s.Node, "http://"+net.JoinHostPort(addresses[0], "8080")+"/hello"); err != nil || !strings.Contains(answer, `"/hello"`) {
		t.Errorf("it answers %q, %v", answer, err)
	}
	helm("upgrade", "app", chartFolders+"/site", "--reuse-values", "--set", "replicas=2", "--wait", "--timeout", "90s")
	if n := len(pods()); n != 2 {
		t.Errorf("%d pods after the upgrade", n)
	}
	var list []struct{ Name, Revision, Status, Chart string }
	if err := json.Unmarshal([]byte(helm("list", "-o", "json")), &list); err != nil {
		t.Fatal(err)
	}
	if len(list) != 1 || list[0].Revision != "2" || list[0].Status != "deployed" || list[0].Chart != "site-1.0.0" {
		t.Errorf("helm list: %+v", list)
	}
	if out, err := s.Command(ctx, "helm", "-n", "people", "install", "other", chartFolders+"/site").CombinedOutput(); err == nil || !strings.Contains(string(out), "image: which one to run") {
		t.Errorf("without an image: %v\n%s", err, out)
	}
	helm("uninstall", "app", "--wait", "--timeout", "60s")
	if out, err := s.Kubectl(ctx, "get", "deployments,secrets", "-n", "people", "-o", "name"); err != nil || strings.TrimSpace(out) != "" {
		t.Errorf("left of it: %v %s", err, out)
	}
}
