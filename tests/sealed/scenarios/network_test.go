//go:build linux

package scenarios

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rancher/rke2/tests/sealed"
)

// The workload's pods: one a node, each behind a service with a cluster address and a
// port on every node, and behind one without an address.
const (
	netSpace    = "net"
	left, right = "left", "right" // on the server, on the agent
)

type nodePort int

// The services' ports on every node.
const (
	leftPort  nodePort = 30081
	rightPort nodePort = 30082
)

func (p nodePort) url(address string) string { return fmt.Sprintf("http://%s:%d/", address, p) }

// abroad is a name that is not the cluster's.
const abroad = "nowhere.example"

// forwarded are the questions that the cluster's name server asks the operator's, as they
// are recorded: for a random name, by which it finds out if it asks itself; for abroad;
// and for the root, when it was not answered.
var forwarded = regexp.MustCompile(`^udp 198\.51\.100\.1:53 asking for (\d+\.\d+\.|nowhere\.example\.|\.)$`)

// applyWorkload applies the pods of all checks, so that they start together.
func (c *charted) applyWorkload(ctx context.Context, t *testing.T) {
	t.Helper()
	var m strings.Builder
	for _, space := range []string{netSpace, policySpace, shopSpace} {
		fmt.Fprintf(&m, "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: %s}\n", space)
	}
	for _, side := range []struct {
		name, on string
		port     nodePort
	}{{left, serverName, leftPort}, {right, agentName, rightPort}} {
		m.WriteString(c.echoPod(netSpace, side.name, side.on, ""))
		fmt.Fprintf(&m, `---
apiVersion: v1
kind: Service
metadata: {name: %[1]s, namespace: %[2]s}
spec:
  type: NodePort
  selector: {app: %[1]s}
  ports: [{port: 80, targetPort: 8080, nodePort: %[3]d}]
---
apiVersion: v1
kind: Service
metadata: {name: %[1]s-headless, namespace: %[2]s}
spec:
  clusterIP: None
  selector: {app: %[1]s}
  ports: [{port: 8080}]
`, side.name, netSpace, side.port)
	}
	m.WriteString(c.policyPods())
	m.WriteString(c.shop())
	apply(ctx, t, &scenario{Node: c.server}, m.String())
}

// reachesAll: every pod reaches every pod and service, on its own node and the other.
func reachesAll(ctx context.Context, t *testing.T, c *charted) {
	c.tell(t, "pods and services, asked from a pod on each node:", c.reaches(ctx, t))
	for _, n := range c.nodes() {
		for _, address := range []string{serverAddress, agentAddress} {
			for _, port := range []nodePort{leftPort, rightPort} {
				if _, err := c.get(ctx, n, port.url(address)); err != nil {
					t.Errorf("asked from the host of %s: %v", n.Name(), err)
				}
			}
		}
	}
}

// reaches waits until all questions have the right answers, and returns those.
func (c *charted) reaches(ctx context.Context, t *testing.T) string {
	t.Helper()
	var text string
	err := sealed.Wait(ctx, "pods and services to reach each other", stepLimit, func(ctx context.Context) (err error) {
		text, err = c.tryReach(ctx)
		return err
	})
	if err != nil {
		t.Error(err)
	}
	return text
}

func (c *charted) tryReach(ctx context.Context) (string, error) {
	client, err := c.server.Client()
	if err != nil {
		return "", err
	}
	addresses := map[string]string{}
	for _, pod := range []string{left, right} {
		p, err := client.CoreV1().Pods(netSpace).Get(ctx, pod, metav1.GetOptions{})
		if err != nil {
			return "", err
		}
		addresses[pod] = p.Status.PodIP
	}
	var text strings.Builder
	var wrong []error
	for _, from := range []string{left, right} {
		var urls, pods []string
		var unmasked []bool
		for _, to := range []struct {
			pod  string
			port nodePort
		}{{left, leftPort}, {right, rightPort}} {
			for _, url := range []string{
				"http://" + addresses[to.pod] + ":8080/", "http://" + to.pod + "." + netSpace + "/", "http://" + to.pod + "-headless:8080/",
				to.port.url(serverAddress), to.port.url(agentAddress),
			} {
				urls, pods = append(urls, url), append(pods, to.pod)
				// A pod sees who asks, unless a node stands in for it.
				unmasked = append(unmasked, from != to.pod && !strings.Contains(url, fmt.Sprint(int(to.port))))
			}
		}
		got, err := echoIn[echoGot](ctx, c, netSpace, from, append([]string{"get"}, urls...)...)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&text, "from %s (%s):\n", from, addresses[from])
		for i, g := range got {
			fmt.Fprintf(&text, "  %s\n", g.said())
			switch {
			case g.Answer == nil || g.Answer.Pod != pods[i]:
				wrong = append(wrong, fmt.Errorf("from %s: %s", from, g.said()))
			case unmasked[i] && g.Answer.From != addresses[from]:
				wrong = append(wrong, fmt.Errorf("from %s, which has the address %s: %s", from, addresses[from], g.said()))
			}
		}
	}
	return text.String(), errors.Join(wrong...)
}

// resolvesNames: names of services and pods, from pods on both nodes; and each node has a
// name server, so that the end of one is not the end of names.
func resolvesNames(ctx context.Context, t *testing.T, c *charted) {
	client, err := c.server.Client()
	if err != nil {
		t.Fatal(err)
	}
	err = sealed.Wait(ctx, "a name server on each node", stepLimit, func(ctx context.Context) error {
		pods, err := client.CoreV1().Pods("kube-system").List(ctx, metav1.ListOptions{LabelSelector: "k8s-app=kube-dns"})
		if err != nil {
			return err
		}
		var nodes []string
		for _, p := range pods.Items {
			if p.Status.Phase == corev1.PodRunning {
				nodes = append(nodes, p.Spec.NodeName)
			}
		}
		slices.Sort(nodes)
		if !slices.Equal(nodes, []string{serverName, agentName}) {
			return fmt.Errorf("name servers are on %q", nodes)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	c.tell(t, "names, asked from a pod on each node:", c.resolves(ctx, t, false))
}

// resolves waits until all names are right; at home also those of nodes, which the name
// server learns late, and one that only somebody outside could know.
func (c *charted) resolves(ctx context.Context, t *testing.T, atHome bool) string {
	t.Helper()
	var text string
	err := sealed.Wait(ctx, "names to be right", stepLimit, func(ctx context.Context) (err error) {
		text, err = c.tryResolve(ctx, atHome)
		return err
	})
	if err != nil {
		t.Error(err)
	}
	return text
}

func (c *charted) tryResolve(ctx context.Context, atHome bool) (string, error) {
	client, err := c.server.Client()
	if err != nil {
		return "", err
	}
	const nobody = "nobody." + netSpace + ".svc.cluster.local"
	names := []string{"kubernetes.default", nobody}
	want := map[string]string{"kubernetes.default": "10.43.0.1"}
	for _, side := range []string{left, right} {
		service, err := client.CoreV1().Services(netSpace).Get(ctx, side, metav1.GetOptions{})
		if err != nil {
			return "", err
		}
		pod, err := client.CoreV1().Pods(netSpace).Get(ctx, side, metav1.GetOptions{})
		if err != nil {
			return "", err
		}
		for name, address := range map[string]string{
			side + "." + netSpace: service.Spec.ClusterIP, side + "." + netSpace + ".svc.cluster.local": service.Spec.ClusterIP,
			side + "-headless." + netSpace: pod.Status.PodIP,
		} {
			names = append(names, name)
			want[name] = address
		}
	}
	if atHome {
		names = append(names, serverName, agentName, abroad)
		want[serverName], want[agentName] = serverAddress, agentAddress
	}
	slices.Sort(names)
	var text strings.Builder
	var wrong []error
	for _, from := range []string{left, right} {
		got, err := echoIn[echoResolved](ctx, c, netSpace, from, append([]string{"resolve", "-timeout", "8s"}, names...)...)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&text, "from %s:\n", from)
		for _, r := range got {
			fmt.Fprintf(&text, "  %-36s %s %s\n", r.Name, strings.Join(r.Addresses, " "), r.Error)
			switch address, there := want[r.Name]; {
			case there && !slices.Equal(r.Addresses, []string{address}):
				wrong = append(wrong, fmt.Errorf("from %s: %s is %q (%s), want %s", from, r.Name, r.Addresses, r.Error, address))
			case !there && (r.Error == "" || r.Name == nobody && !strings.Contains(r.Error, "no such host")):
				wrong = append(wrong, fmt.Errorf("from %s: %s, which nobody has, is %q (%s)", from, r.Name, r.Addresses, r.Error))
			}
		}
	}
	return text.String(), errors.Join(wrong...)
}

// tops: kubectl top knows both nodes and the pods.
func tops(ctx context.Context, t *testing.T, c *charted) {
	c.tell(t, "kubectl top:", c.topped(ctx, t))
}

func (c *charted) topped(ctx context.Context, t *testing.T) string {
	t.Helper()
	var nodes, pods string
	err := sealed.Wait(ctx, "kubectl top", stepLimit, func(ctx context.Context) (err error) {
		if nodes, err = c.server.Kubectl(ctx, "top", "nodes"); err != nil {
			return err
		}
		if pods, err = c.server.Kubectl(ctx, "top", "pods", "-A"); err != nil {
			return err
		}
		for _, name := range []string{serverName, agentName} {
			if !regexp.MustCompile(`(?m)^` + name + ` +[1-9]\d*m +\d+% +[1-9]\d*Mi`).MatchString(nodes) {
				return fmt.Errorf("it knows nothing of node %s:\n%s", name, nodes)
			}
		}
		for _, name := range []string{left, right, "kube-apiserver-" + serverName} {
			if !regexp.MustCompile(`(?m) ` + name + ` +\d+m +\d+Mi`).MatchString(pods) {
				return fmt.Errorf("it knows nothing of pod %s:\n%s", name, pods)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	return nodes + "\n" + pods
}

// hasDefinitions: what the charts that run nothing, or little, are for.
func hasDefinitions(ctx context.Context, t *testing.T, c *charted) {
	client, err := c.server.Client()
	if err != nil {
		t.Fatal(err)
	}
	classes, err := client.NodeV1().RuntimeClasses().List(ctx, metav1.ListOptions{})
	if err != nil || len(classes.Items) == 0 {
		t.Errorf("%d runtime classes, %v", len(classes.Items), err)
	}
	out, err := c.server.Kubectl(ctx, "get", "crd", "-o", "name")
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"volumesnapshots.snapshot.storage.k8s.io", "felixconfigurations.crd.projectcalico.org", "networkpolicies.crd.projectcalico.org"} {
		if !strings.Contains(out, "/"+kind+"\n") {
			t.Errorf("no definition of %s:\n%s", kind, out)
		}
	}
	ingress, err := client.NetworkingV1().IngressClasses().Get(ctx, "nginx", metav1.GetOptions{})
	if err != nil || ingress.Annotations["ingressclass.kubernetes.io/is-default-class"] != "true" {
		t.Errorf("the default class of ingresses: %v, %v", ingress.Annotations, err)
	}
	service, err := client.CoreV1().Services("kube-system").List(ctx, metav1.ListOptions{LabelSelector: "k8s-app=kube-dns"})
	if err != nil || !slices.ContainsFunc(service.Items, func(s corev1.Service) bool { return s.Spec.ClusterIP == "10.43.0.10" }) {
		t.Errorf("no service of the name server has its address: %v", err)
	}
	deployment, err := client.AppsV1().Deployments("kube-system").Get(ctx, "rke2-snapshot-controller", metav1.GetOptions{})
	if err != nil || deployment.Status.ReadyReplicas == 0 {
		t.Errorf("the snapshot controller: %v", err)
	}
}
