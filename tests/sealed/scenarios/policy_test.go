//go:build linux

package scenarios

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rancher/rke2/tests/sealed"
)

// policySpace has pods that policies guard, one a node, and one beside each that some let
// in. The pods of netSpace are strangers to it.
const policySpace = "policy"

// The guarded pods' ports.
const (
	frontDoor = "8080"
	sideDoor  = "9090"
)

func (c *charted) policyPods() string {
	var m strings.Builder
	for _, side := range []struct{ name, on string }{{left, serverName}, {right, agentName}} {
		m.WriteString(c.echoPod(policySpace, "friend-"+side.name, side.on, ", role: friend"))
		m.WriteString(c.echoPod(policySpace, "guarded-"+side.name, side.on, ", role: guarded"))
		fmt.Fprintf(&m, "  - {name: side, image: %q, args: [serve, -drain=0s, \"-listen=:%s\"]}\n", c.echo, sideDoor)
	}
	return m.String()
}

// policy is a NetworkPolicy of policySpace.
func policy(name, spec string) string {
	return fmt.Sprintf(`---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: %s, namespace: %s}
spec: {%s}
`, name, policySpace, spec)
}

// holdsPolicies: who may reach whom, on the same node and the other, as policies come and
// go.
func holdsPolicies(ctx context.Context, t *testing.T, c *charted) {
	guarded := "podSelector: {matchLabels: {role: guarded}}"
	for _, step := range []struct {
		what, apply string
		open        func(friend bool, port string) bool
	}{
		{
			what: "no policy",
			open: func(bool, string) bool { return true },
		},
		{
			what:  "nobody may",
			apply: policy("nobody", guarded+", policyTypes: [Ingress]"),
			open:  func(bool, string) bool { return false },
		},
		{
			what:  "friends may, by the front door",
			apply: policy("friends", guarded+", ingress: [{from: [{podSelector: {matchLabels: {role: friend}}}], ports: [{port: "+frontDoor+"}]}]"),
			open:  func(friend bool, port string) bool { return friend && port == frontDoor },
		},
		{
			what: "and pods of another namespace, by the side door",
			apply: policy("strangers", guarded+", ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: "+
				netSpace+"}}}], ports: [{port: "+sideDoor+"}]}]"),
			open: func(friend bool, port string) bool { return friend == (port == frontDoor) },
		},
		{
			what:  "but friends may ask nobody any more",
			apply: policy("silent", "podSelector: {matchLabels: {role: friend}}, policyTypes: [Egress]"),
			open:  func(friend bool, port string) bool { return !friend && port == sideDoor },
		},
		{
			what: "all policies are gone",
			open: func(bool, string) bool { return true },
		},
	} {
		switch {
		case step.apply != "":
			apply(ctx, t, &scenario{Node: c.server}, step.apply)
		default:
			if out, err := c.server.Kubectl(ctx, "delete", "networkpolicies", "-n", policySpace, "--all"); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
		}
		var text string
		err := sealed.Wait(ctx, "policies to hold: "+step.what, stepLimit, func(ctx context.Context) (err error) {
			text, err = c.tryPolicy(ctx, step.open)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		c.tell(t, "policy: "+step.what, text)
	}
	// The kubelet was let in all the time.
	client, err := c.server.Client()
	if err != nil {
		t.Fatal(err)
	}
	pods, err := client.CoreV1().Pods(policySpace).List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pods.Items {
		for _, s := range p.Status.ContainerStatuses {
			if s.RestartCount > 0 || !s.Ready {
				t.Errorf("container %s of %s: ready: %v, restarts: %d", s.Name, p.Name, s.Ready, s.RestartCount)
			}
		}
	}
}

// tryPolicy has every friend and stranger ask every guarded pod at each door, all at once,
// and says what is not as it should be.
func (c *charted) tryPolicy(ctx context.Context, open func(friend bool, port string) bool) (string, error) {
	client, err := c.server.Client()
	if err != nil {
		return "", err
	}
	urls := []string{"get", "-timeout", "1s"}
	var ports, guards []string
	for _, side := range []string{left, right} {
		pod, err := client.CoreV1().Pods(policySpace).Get(ctx, "guarded-"+side, metav1.GetOptions{})
		if err != nil {
			return "", err
		}
		for _, port := range []string{frontDoor, sideDoor} {
			urls = append(urls, "http://"+pod.Status.PodIP+":"+port+"/")
			ports, guards = append(ports, port), append(guards, pod.Name)
		}
	}
	askers := []struct {
		space, pod string
		friend     bool
	}{{policySpace, "friend-left", true}, {policySpace, "friend-right", true}, {netSpace, left, false}, {netSpace, right, false}}
	lines := make([]string, len(askers))
	wrong := make([]error, len(askers))
	var all sync.WaitGroup
	for i, a := range askers {
		all.Go(func() {
			got, err := echoIn[echoGot](ctx, c, a.space, a.pod, urls...)
			if err != nil {
				wrong[i] = err
				return
			}
			var words []string
			for k, g := range got {
				answered := g.Answer != nil && g.Answer.Pod == guards[k]
				word := guards[k] + ":" + ports[k] + map[bool]string{true: " ✓", false: " ✗"}[answered]
				words = append(words, word)
				if answered != open(a.friend, ports[k]) {
					wrong[i] = errors.Join(wrong[i], fmt.Errorf("%s/%s → %s (%s)", a.space, a.pod, word, g.Error))
				}
			}
			lines[i] = fmt.Sprintf("  %-22s %s", a.space+"/"+a.pod, strings.Join(words, "  "))
		})
	}
	all.Wait()
	lines = slices.DeleteFunc(lines, func(l string) bool { return l == "" })
	return strings.Join(lines, "\n"), errors.Join(wrong...)
}
