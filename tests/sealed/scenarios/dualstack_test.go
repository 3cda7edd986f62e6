//go:build linux

package scenarios

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rancher/rke2/runtime/config"
	"github.com/rancher/rke2/tests/sealed"
	"github.com/rancher/rke2/tests/sealed/node"
)

// Addresses in the network that is reserved for documentation (RFC 3849).
const (
	dualIPv4 = "198.51.100.21"
	dualIPv6 = "2001:db8:51::21"
	onlyIPv6 = "2001:db8:51::22"
)

// TestDualStack boots a node that has an address of each family, and keeps its data in
// another folder than usual.
func TestDualStack(t *testing.T) {
	t.Parallel()
	p := products(t)
	const data = "/srv/rke2"
	n := newNode(t, node.Options{
		Name: "dual", Binary: p.Binary, Address: dualIPv4 + "/24", Plugins: plugins(t, p), PodSubnet: "10.42.0.0/24",
		Config: map[string]any{
			"data-dir": data, "node-ip": []string{dualIPv4, dualIPv6},
			"cluster-cidr": "10.42.0.0/16,fd00:42::/56", "service-cidr": "10.43.0.0/16,fd00:43::/112",
		},
	})
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 5*time.Minute)
	defer cancel()
	placeFile(t, p.Bundle, n.Disk(filepath.Join(data, "agent/images", filepath.Base(p.Bundle))))
	if out, err := n.Command(ctx, "ip", "-6", "address", "add", dualIPv6+"/64", "dev", "eth0", "nodad").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	bootNetwork(ctx, t, n)

	client, err := n.Client()
	if err != nil {
		t.Fatal(err)
	}
	known, err := client.CoreV1().Nodes().Get(ctx, "dual", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got := addresses(known, corev1.NodeInternalIP); !slices.Equal(got, []string{dualIPv4, dualIPv6}) {
		t.Errorf("addresses of the node: %q", got)
	}
	err = sealed.Wait(ctx, "networks for pods", stepLimit, func(ctx context.Context) error {
		known, err := client.CoreV1().Nodes().Get(ctx, "dual", metav1.GetOptions{})
		if err == nil && !slices.Equal(known.Spec.PodCIDRs, []string{"10.42.0.0/24", "fd00:42::/64"}) {
			err = fmt.Errorf("the node's are %q", known.Spec.PodCIDRs)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	policy := corev1.IPFamilyPolicyRequireDualStack
	service, err := client.CoreV1().Services("default").Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "both"},
		Spec:       corev1.ServiceSpec{IPFamilyPolicy: &policy, Ports: []corev1.ServicePort{{Port: 80}}},
	}, metav1.CreateOptions{})
	if err != nil || len(service.Spec.ClusterIPs) != 2 || !strings.HasPrefix(service.Spec.ClusterIPs[1], "fd00:43::") {
		t.Errorf("a service of both families: %+v, %v", service, err)
	}
	servesOn(ctx, t, n, dualIPv4, dualIPv6)
	for _, folder := range []string{"bin", "data", "agent", "server"} {
		if left := listingOf(t, n, filepath.Join(node.DataDir, folder)); len(left) > 0 {
			t.Errorf("%s is used beside data-dir: %v", folder, left)
		}
	}
	if out, err := n.Command(ctx, data+"/bin/kubectl", "get", "--raw", "/readyz").Output(); err != nil || string(out) != "ok" {
		t.Errorf("%s/bin/kubectl: %q, %v", data, out, err)
	}
	cloudComesAndGoes(ctx, t, n)
}

// cloudComesAndGoes starts the node again with the release's cloud controller manager and
// outer addresses, and then without.
func cloudComesAndGoes(ctx context.Context, t *testing.T, n *node.Node) {
	if err := n.Stop(ctx, stopLimit); err != nil {
		t.Fatal(err)
	}
	if err := n.Start(ctx, "--cloud-provider-name=rke2", "--node-external-ip=203.0.113.7,2001:db8::7"); err != nil {
		t.Fatal(err)
	}
	if err := n.WaitReady(ctx, bootLimit); err != nil {
		t.Fatal(err)
	}
	external(ctx, t, n, "203.0.113.7", "2001:db8::7")
	if err := n.Stop(ctx, stopLimit); err != nil {
		t.Fatal(err)
	}
	if err := n.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := n.WaitReady(ctx, bootLimit); err != nil {
		t.Fatal(err)
	}
	err := sealed.Wait(ctx, "an end of the cloud controller manager", stepLimit, func(ctx context.Context) error {
		client, err := n.Client()
		if err != nil {
			return err
		}
		_, err = client.CoreV1().Pods("kube-system").Get(ctx, config.RoleCloudController+"-"+n.Name(), metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			return nil
		case err == nil:
			err = errors.New("its pod is there")
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if err := n.Stop(ctx, stopLimit); err != nil {
		t.Error(err)
	}
}

// external waits until the node has these outer addresses, and nothing keeps pods away.
func external(ctx context.Context, t *testing.T, n *node.Node, want ...string) {
	t.Helper()
	err := sealed.Wait(ctx, "the node's outer addresses", stepLimit, func(ctx context.Context) error {
		client, err := n.Client()
		if err != nil {
			return err
		}
		known, err := client.CoreV1().Nodes().Get(ctx, n.Name(), metav1.GetOptions{})
		if err != nil {
			return err
		}
		if got := addresses(known, corev1.NodeExternalIP); !slices.Equal(got, want) {
			return fmt.Errorf("they are %q", got)
		}
		for _, taint := range known.Spec.Taints {
			if strings.HasPrefix(taint.Key, "node.cloudprovider.kubernetes.io/") {
				return fmt.Errorf("it has the taint %s", taint.Key)
			}
		}
		pod, err := client.CoreV1().Pods("kube-system").Get(ctx, config.RoleCloudController+"-"+n.Name(), metav1.GetOptions{})
		if err == nil && (len(pod.Status.ContainerStatuses) == 0 || !pod.Status.ContainerStatuses[0].Ready) {
			err = fmt.Errorf("the cloud controller manager is not ready: %+v", pod.Status.ContainerStatuses)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestIPv6Only boots a node that has no IPv4 address but loopback.
func TestIPv6Only(t *testing.T) {
	t.Parallel()
	p := products(t)
	n := newNode(t, node.Options{
		Name: "six", Binary: p.Binary, Bundles: []string{p.Bundle}, Address: onlyIPv6 + "/64", Plugins: plugins(t, p),
		PodSubnet: "fd00:42::/64", Config: map[string]any{
			"node-ip": onlyIPv6, "cloud-provider-name": "rke2", "node-external-ip": "2001:db8::6",
		},
	})
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 5*time.Minute)
	defer cancel()
	err := sealed.Wait(ctx, "the address to be the host's alone", stepLimit, func(ctx context.Context) error {
		out, err := n.Command(ctx, "ip", "-6", "address", "show", "dev", "eth0", "tentative").Output()
		if err == nil && strings.Contains(string(out), onlyIPv6) {
			err = errors.New("it is tentative")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	bootNetwork(ctx, t, n)
	client, err := n.Client()
	if err != nil {
		t.Fatal(err)
	}
	known, err := client.CoreV1().Nodes().Get(ctx, "six", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got := addresses(known, corev1.NodeInternalIP); !slices.Equal(got, []string{onlyIPv6}) {
		t.Errorf("addresses of the node: %q", got)
	}
	external(ctx, t, n, "2001:db8::6")
	service, err := client.CoreV1().Services("default").Get(ctx, "kubernetes", metav1.GetOptions{})
	if err != nil || service.Spec.ClusterIP != "fd00:43::1" {
		t.Errorf("the kubernetes service: %+v, %v", service.Spec, err)
	}
	servesOn(ctx, t, n, onlyIPv6)
	if err := n.Stop(ctx, stopLimit); err != nil {
		t.Error(err)
	}
}

func bootNetwork(ctx context.Context, t *testing.T, n *node.Node) {
	t.Helper()
	if err := n.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := n.WaitReady(ctx, bootLimit); err != nil {
		t.Fatal(err)
	}
	if err := n.WaitControlPlane(ctx, stepLimit); err != nil {
		t.Fatal(err)
	}
	report(t, n.Name()+": cold start, control plane's pods Running", time.Since(n.Started()))
}

// servesOn checks that API server, supervisor and etcd take connections on addresses.
func servesOn(ctx context.Context, t *testing.T, n *node.Node, on ...string) {
	t.Helper()
	for _, address := range on {
		for _, port := range []string{"6443", "9345"} {
			dial(ctx, t, n, address, port)
		}
	}
	for _, port := range []string{"2379", "2380"} {
		dial(ctx, t, n, on[0], port) // the first is the one that members know it by
	}
}

func dial(ctx context.Context, t *testing.T, n *node.Node, address, port string) {
	t.Helper()
	if strings.Contains(address, ":") {
		address = "[" + address + "]"
	}
	conn, err := n.DialContext(ctx, "tcp", address+":"+port)
	if err != nil {
		t.Error(err)
		return
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
}

// internal are the addresses that a node is reached by in its cluster.
// addresses are those of a kind that the node's status has.
func addresses(n *corev1.Node, kind corev1.NodeAddressType) []string {
	var found []string
	for _, a := range n.Status.Addresses {
		if a.Type == kind {
			found = append(found, a.Address)
		}
	}
	return found
}

func listingOf(t *testing.T, n *node.Node, path string) map[string]string {
	t.Helper()
	return listing(t, &scenario{Node: n}, path)
}
