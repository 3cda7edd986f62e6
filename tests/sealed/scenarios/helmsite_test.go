//go:build linux

package scenarios

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/rancher/rke2/tests/distribution"
	"github.com/rancher/rke2/tests/sealed"
	"github.com/rancher/rke2/tests/sealed/node"
)

// Where a site keeps its charts, on the node itself.
const (
	chartFolders  = "/srv/charts" // as folders
	chartArchives = "/srv/packed" // as archives, with an index
	helmRegistry  = "198.51.100.10:5000"
	helmFiles     = "198.51.100.10:8443"
	siteNamespace = "site"
)

// conflist is the bridge network's configuration: without it the node has none.
const conflist = "/etc/cni/net.d/10-bridge.conflist"

// helmSite is a server on the bridge network, with charts in a folder, in a repository
// and in a registry. There is no proxy for services: charts are said to be for
// bootstrapping, whose jobs do without.
type helmSite struct {
	*scenario
	echo     string // the workload's image
	registry *distribution.Server
	ca       string // of the registry and the repository, PEM
}

func newHelmSite(ctx context.Context, t *testing.T) *helmSite {
	t.Helper()
	p := products(t)
	helm, err := p.Helm(ctx)
	if err != nil {
		t.Fatal(err)
	}
	bundle, echo := echoBundle(t, p)
	folders, err := filepath.Abs("testdata/charts")
	if err != nil {
		t.Fatal(err)
	}
	s := &helmSite{echo: echo, registry: distribution.Lay(t, helmRegistry, distribution.Options{})}
	s.scenario = &scenario{Node: newNode(t, node.Options{
		Name: "helm", Binary: p.Binary, Bundles: []string{p.Bundle, bundle}, Plugins: plugins(t, p), Env: []string{"HOME=/root", "OTEL_TRACES_EXPORTER=none"},
		Binds: []sealed.Bind{
			{Source: helm, Target: "/usr/local/bin/helm"}, {Source: probe(t), Target: "/usr/local/bin/probe"},
			{Source: s.registry.Program, Target: "/usr/local/bin/registry"},
			{Source: s.registry.Folder, Target: s.registry.Folder, Writable: true}, {Source: folders, Target: chartFolders},
		},
	})}
	t.Cleanup(func() {
		if t.Failed() {
			s.explain(context.WithoutCancel(t.Context()), t)
		}
	})
	ca, err := os.ReadFile(s.registry.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	s.ca = string(ca)
	s.publish(ctx, t)
	return s
}

// publish packs the charts and offers one in a repository and in a registry. All that is
// Helm's own command line's work.
func (s *helmSite) publish(ctx context.Context, t *testing.T) {
	t.Helper()
	cert := []string{"-cert", filepath.Join(s.registry.Folder, "cert.pem"), "-key", filepath.Join(s.registry.Folder, "key.pem")}
	for _, c := range [][]string{
		{"helm", "package", chartFolders + "/greeter", chartFolders + "/cards", "-d", chartArchives},
		{"helm", "repo", "index", chartArchives},
	} {
		s.runs(ctx, t, c...)
	}
	for log, c := range map[string][]string{
		"registry": {"registry", "serve", s.registry.Config},
		"files":    append([]string{"probe", "files", "-listen", helmFiles, "-folder", chartArchives, "-user", distribution.User, "-password", distribution.Password}, cert...),
	} {
		if _, err := s.Host.Start(context.WithoutCancel(ctx), log, c[0], c[1:]...); err != nil {
			t.Fatal(err)
		}
	}
	for _, address := range []string{helmRegistry, helmFiles} {
		err := sealed.Wait(ctx, address+" to listen", stepLimit, func(ctx context.Context) error {
			conn, err := s.DialContext(ctx, "tcp", address)
			if err != nil {
				return err
			}
			return conn.Close()
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	s.runs(ctx, t, "helm", "push", chartArchives+"/greeter-1.0.0.tgz", "oci://"+helmRegistry+"/charts",
		"--ca-file", s.registry.CAFile, "--username", distribution.User, "--password", distribution.Password)
}

// runs is what a command on the node says, which must not fail.
func (s *helmSite) runs(ctx context.Context, t *testing.T, words ...string) string {
	t.Helper()
	out, err := s.Command(ctx, words[0], words[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(words, " "), err, out)
	}
	return string(out)
}

// fields are settings of an object or values of a chart.
type fields = map[string]any

// chart is a HelmChart of the archive, with more settings.
func (s *helmSite) chart(t *testing.T, name, archive string, values, spec fields) string {
	t.Helper()
	all := fields{"bootstrap": true, "targetNamespace": siteNamespace, "createNamespace": true}
	if archive != "" {
		packed, err := os.ReadFile(s.Path(chartArchives + "/" + archive + "-1.0.0.tgz"))
		if err != nil {
			t.Fatal(err)
		}
		all["chartContent"] = base64.StdEncoding.EncodeToString(packed)
	}
	if values != nil {
		all["valuesContent"] = manifest(t, values)
	}
	for k, v := range spec {
		all[k] = v
	}
	return manifest(t, object("HelmChart", name, all))
}

// object is one of helm-controller's.
func object(kind, name string, spec fields) fields {
	return fields{"apiVersion": "helm.cattle.io/v1", "kind": kind, "metadata": fields{"name": name, "namespace": "kube-system"}, "spec": spec}
}

func manifest(t *testing.T, o fields) string {
	t.Helper()
	text, err := yaml.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// applies is what an operator does with a manifest.
func (s *helmSite) applies(ctx context.Context, t *testing.T, text string) {
	t.Helper()
	apply(ctx, t, s.scenario, text)
}

// revisions are the statuses of a release's revisions in their order, as Helm keeps them.
func (s *helmSite) revisions(ctx context.Context, name string) (string, error) {
	client, err := s.Client()
	if err != nil {
		return "", err
	}
	list, err := client.CoreV1().Secrets(siteNamespace).List(ctx, metav1.ListOptions{LabelSelector: "owner=helm,name=" + name})
	if err != nil {
		return "", err
	}
	slices.SortFunc(list.Items, func(a, b corev1.Secret) int {
		i, _ := strconv.Atoi(a.Labels["version"])
		j, _ := strconv.Atoi(b.Labels["version"])
		return i - j
	})
	var all []string
	for _, s := range list.Items {
		all = append(all, s.Labels["status"])
	}
	return strings.Join(all, " "), nil
}

// awaitRevisions waits until a release has revisions of just these statuses.
func (s *helmSite) awaitRevisions(ctx context.Context, t *testing.T, name, want string) {
	t.Helper()
	err := sealed.Wait(ctx, "release "+name, stepLimit, func(ctx context.Context) error {
		got, err := s.revisions(ctx, name)
		if err == nil && got != want {
			err = fmt.Errorf("its revisions are %q, want %q", got, want)
		}
		return err
	})
	if err != nil {
		t.Fatalf("%v; its job says:\n%s", err, s.said(ctx, name))
	}
}

// greeting is the object that a release made.
func (s *helmSite) greeting(ctx context.Context, t *testing.T, name string) *corev1.ConfigMap {
	t.Helper()
	client, err := s.Client()
	if err != nil {
		t.Fatal(err)
	}
	cm, err := client.CoreV1().ConfigMaps(siteNamespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return cm
}

// greets compares what a release has made with what it should have.
func (s *helmSite) greets(ctx context.Context, t *testing.T, name, want string) {
	t.Helper()
	if got := s.greeting(ctx, t, name).Data["greeting"]; got != want {
		t.Errorf("release %s greets with %q, want %q", name, got, want)
	}
}

// said is what the job of a chart has written, in all containers that the cluster still
// knows of, and with what words they ended.
func (s *helmSite) said(ctx context.Context, name string) string {
	client, err := s.Client()
	if err != nil {
		return err.Error()
	}
	pods, err := client.CoreV1().Pods("kube-system").List(ctx, metav1.ListOptions{LabelSelector: "batch.kubernetes.io/job-name=helm-install-" + name})
	if err != nil {
		return err.Error()
	}
	var out bytes.Buffer
	for _, p := range pods.Items {
		for _, previous := range []bool{true, false} {
			log, err := client.CoreV1().Pods(p.Namespace).GetLogs(p.Name, &corev1.PodLogOptions{Previous: previous}).DoRaw(ctx)
			if err == nil { // else there is no such container, or none yet
				out.Write(log)
			}
		}
		for _, c := range p.Status.ContainerStatuses {
			for _, state := range []corev1.ContainerState{c.LastTerminationState, c.State} {
				if end := state.Terminated; end != nil {
					fmt.Fprintf(&out, "ended with %d: %s\n", end.ExitCode, end.Message)
				}
			}
		}
	}
	return out.String()
}

// awaitSaid waits until the job of a chart has said all that.
func (s *helmSite) awaitSaid(ctx context.Context, t *testing.T, name string, words ...string) string {
	t.Helper()
	var said string
	err := sealed.Wait(ctx, "the job of "+name, stepLimit, func(ctx context.Context) error {
		said = s.said(ctx, name)
		for _, w := range words {
			if !strings.Contains(said, w) {
				return fmt.Errorf("it did not say %q", w)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatalf("%v; it says:\n%s", err, said)
	}
	return said
}

// deletes takes a chart away as an operator does, and waits until nothing of it is left.
func (s *helmSite) deletes(ctx context.Context, t *testing.T, name string) {
	t.Helper()
	s.runs(ctx, t, "kubectl", "delete", "helmchart", "-n", "kube-system", name, "--timeout=90s")
	s.awaitRevisions(ctx, t, name, "")
	err := sealed.Wait(ctx, "what belongs to chart "+name+" to be gone", stepLimit, func(ctx context.Context) error {
		for _, args := range [][]string{
			{"-n", siteNamespace, "configmap/" + name},
			{"-n", "kube-system", "job/helm-install-" + name, "job/helm-delete-" + name, "secret/chart-values-" + name, "configmap/chart-content-" + name,
				"serviceaccount/helm-" + name, "clusterrolebinding/helm-kube-system-" + name},
		} {
			out, err := s.Kubectl(ctx, append([]string{"get", "--ignore-not-found", "-o", "name"}, args...)...)
			if err == nil && strings.TrimSpace(out) != "" {
				err = fmt.Errorf("there is still %s", strings.Fields(out))
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// networkless says whether the node is not Ready because it has no network.
func (s *helmSite) networkless(ctx context.Context) error {
	client, err := s.Client()
	if err != nil {
		return err
	}
	n, err := client.CoreV1().Nodes().Get(ctx, s.Name(), metav1.GetOptions{})
	if err != nil {
		return err
	}
	for _, c := range n.Status.Conditions {
		if c.Type != corev1.NodeReady {
			continue
		}
		if c.Status == corev1.ConditionTrue || !strings.Contains(c.Message, "cni plugin not initialized") {
			return fmt.Errorf("the node is Ready: %s (%s)", c.Status, c.Message)
		}
		return nil
	}
	return errors.New("nothing is said of the node")
}

// explain logs what a person would ask after a failure.
func (s *helmSite) explain(ctx context.Context, t *testing.T) {
	for _, args := range [][]string{
		{"get", "pods,jobs,helmcharts,helmchartconfigs", "-A", "-o", "wide"}, {"get", "events", "-A", "--sort-by=.lastTimestamp"},
	} {
		out, err := s.Command(ctx, "kubectl", append(args, "--request-timeout=5s")...).CombinedOutput()
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		t.Logf("$ kubectl %s (%v)\n%s", strings.Join(args, " "), err, strings.Join(lines[max(0, len(lines)-60):], "\n"))
	}
}
