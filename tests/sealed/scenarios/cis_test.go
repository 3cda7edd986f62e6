//go:build linux

package scenarios

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/rancher/rke2/runtime/cis"
	"github.com/rancher/rke2/tests/sealed"
	"github.com/rancher/rke2/tests/sealed/node"
)

// TestProfileCIS hardens one node, with the charts that a server deploys. The kernel
// parameters that the profile asks for are the machine's; a sealed host has files of its
// own in their place, so they are checked and mended here without the machine being changed.
func TestProfileCIS(t *testing.T) {
	p := products(t)
	bundles, key := operatorsBundles(t)
	echo, reference := echoBundle(t, p)
	s := &scenario{Node: newNode(t, node.Options{
		Name: "hardened", Binary: p.Binary, Charts: true,
		Bundles: append(bundles[:1], p.Bundle, p.Set("canal"), p.Set("ingress-nginx"), echo),
		Trust:   map[string][]byte{"operator.pub": key}, Config: map[string]any{"profile": cis.CIS, "write-kubeconfig-mode": "0600"},
	})}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 8*time.Minute)
	defer cancel()
	for _, part := range []struct {
		name string
		run  func(context.Context, *testing.T, *scenario)
	}{
		{"refuses a host that is not prepared", refusesUnprepared},
		{"boots", bootsHardened},
		{"etcd has a user and files of its own", etcdHasUser},
		{"files are for their owner only", filesArePrivate},
		{"namespaces have policies", namespacesHavePolicies},
		{"pods are restricted", podsAreRestricted},
		{"policies let through what the cluster is for", func(ctx context.Context, t *testing.T, s *scenario) { policiesServe(ctx, t, s, reference) }},
		{"the audit log says who did what, not secrets", auditLogs},
		{"a changed setting restarts what it concerns", settingsRestart},
	} {
		if !t.Run(part.name, func(t *testing.T) { part.run(ctx, t, s) }) {
			t.Fatalf("%q failed: what comes after it stands on it", part.name)
		}
	}
}

// refusesUnprepared: everything that is missing is said at once, with the commands that
// mend it, which are then done.
func refusesUnprepared(ctx context.Context, t *testing.T, s *scenario) {
	found, err := cis.Check(s.Path("/"), cis.CIS, true)
	if err != nil {
		t.Fatal(err)
	}
	if len(found) < 2 {
		t.Fatalf("a fresh host lacks %v only", found)
	}
	if err := s.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.Wait(ctx, stepLimit); err == nil {
		t.Error("rke2 ended without an error")
	}
	said := s.LastError()
	t.Log("\n" + said)
	for _, f := range found {
		if !strings.Contains(said, f.String()) || !strings.Contains(said, f.ToDo) {
			t.Errorf("%s: not said, or not what to do (%s)", f, f.ToDo)
		}
	}
	if left := listing(t, s, node.DataDir+"/data"); len(left) > 0 {
		t.Errorf("something was staged: %v", left)
	}
	for _, f := range found {
		if out, err := s.Command(ctx, "sh", "-c", f.ToDo).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", f.ToDo, err, out)
		}
	}
	if found, err := cis.Check(s.Path("/"), cis.CIS, true); err != nil || len(found) > 0 {
		t.Errorf("after the commands the host still lacks %v, %v", found, err)
	}
}

func bootsHardened(ctx context.Context, t *testing.T, s *scenario) {
	if err := s.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.WaitReady(ctx, bootLimit); err != nil {
		t.Fatal(err)
	}
	if err := s.WaitControlPlane(ctx, stepLimit); err != nil {
		t.Fatal(err)
	}
	report(t, "cold start with profile cis, control plane's pods Running", time.Since(s.Started()))
	if err := s.WaitCharts(ctx, chartsLimit); err != nil {
		t.Fatal(err)
	}
	report(t, "cold start with profile cis, all default charts' pods Ready", time.Since(s.Started()))
	config, err := os.ReadFile(s.Disk(node.DataDir + "/agent/etc/kubelet.conf.d/00-rke2-defaults.conf"))
	if err != nil || !bytes.Contains(config, []byte("protectKernelDefaults: true")) {
		t.Errorf("the kubelet does not protect the kernel's defaults: %v\n%s", err, config)
	}
}

func etcdHasUser(_ context.Context, t *testing.T, s *scenario) {
	user, group, err := cis.Account(s.Path("/"))
	if err != nil {
		t.Fatal(err)
	}
	found, err := s.Find("etcd")
	if err != nil || len(found) != 1 {
		t.Fatalf("processes etcd: %+v, %v", found, err)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", found[0].Pid))
	if want := fmt.Sprintf("\nUid:\t%[1]d\t%[1]d\t%[1]d\t%[1]d\nGid:\t%[2]d\t%[2]d\t%[2]d\t%[2]d\n", user, group); err != nil || !strings.Contains(string(status), want) {
		t.Errorf("etcd does not run as user %d, group %d: %v\n%s", user, group, err, status)
	}
	for _, path := range []string{"db/etcd", "db/etcd/member", "tls/etcd/server-client.key", "tls/etcd/peer-server-client.key"} {
		var file syscall.Stat_t
		if err := syscall.Stat(s.Disk(node.DataDir+"/server/"+path), &file); err != nil || int(file.Uid) != user || file.Mode&0o077 != 0 {
			t.Errorf("%s: user %d, mode %o, %v", path, file.Uid, file.Mode&0o777, err)
		}
	}
	var ca syscall.Stat_t
	if err := syscall.Stat(s.Disk(node.DataDir+"/server/tls/etcd/server-ca.key"), &ca); err != nil || ca.Uid != 0 {
		t.Errorf("etcd has its CA's key: user %d, %v", ca.Uid, err)
	}
}

func filesArePrivate(ctx context.Context, t *testing.T, s *scenario) {
	out, err := s.Command(ctx, "find", node.DataDir+"/server/tls", node.DataDir+"/server/cred", node.DataDir+"/server/token", node.DataDir+"/agent",
		"-path", node.DataDir+"/agent/containerd", "-prune", "-o",
		"(", "-name", "*.key", "-o", "-name", "*.kubeconfig", "-o", "-name", "token", "-o", "-path", "*/pod-manifests/*.yaml", ")", "-perm", "/077", "-print").Output()
	if err != nil || len(out) > 0 {
		t.Errorf("others may read, %v:\n%s", err, out)
	}
	for path, mode := range map[string]os.FileMode{
		node.Kubeconfig: 0o600, cis.AuditPolicyFile: 0o600, cis.PodSecurityFile: 0o600,
		node.DataDir + "/server/logs/audit.log": 0o600, node.DataDir + "/agent/pod-manifests": 0o700, node.DataDir + "/server/db/etcd": 0o700,
	} {
		if info, err := os.Stat(s.Path(path)); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v; want mode %o", path, info, err, mode)
		}
	}
}

// restricted is what the Pod Security Standard of that name asks of a container.
const restricted = `"securityContext": {"runAsNonRoot": true, "runAsUser": 65534, "allowPrivilegeEscalation": false,
  "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}}, "readinessProbe"`

func podsAreRestricted(ctx context.Context, t *testing.T, s *scenario) {
	plain := s.Command(ctx, "kubectl", "apply", "-f", "-")
	plain.Stdin = strings.NewReader(fmt.Sprintf(probePod, "plain", probeReference))
	if out, err := plain.CombinedOutput(); err == nil || !strings.Contains(string(out), `violates PodSecurity "restricted`) {
		t.Errorf("a pod like any was let in: %v\n%s", err, out)
	}
	apply(ctx, t, s, strings.Replace(fmt.Sprintf(probePod, "probe", probeReference), `"readinessProbe"`, restricted, 1))
	pod, err := s.WaitPod(ctx, metav1.NamespaceDefault, "probe", stepLimit)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range pod.Spec.Volumes {
		if v.Projected != nil {
			t.Errorf("the pod was given a token: volume %s", v.Name)
		}
	}
}

// policiesServe: a pod is answered by the name server and the ingress, and not by what is
// the system's own: the name server's metrics, which the node itself may read.
func policiesServe(ctx context.Context, t *testing.T, s *scenario, image string) {
	apply(ctx, t, s, fmt.Sprintf(`{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "asks"}, "spec": {
  "terminationGracePeriodSeconds": 1, "containers": [{"name": "echo", "image": %q, "args": ["serve"], "securityContext": {
    "runAsNonRoot": true, "runAsUser": 65534, "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}}}]}}`, image))
	if _, err := s.WaitPod(ctx, metav1.NamespaceDefault, "asks", stepLimit); err != nil {
		t.Fatal(err)
	}
	servers, err := s.Kubectl(ctx, "get", "pods", "-n", "kube-system", "-l", "k8s-app=kube-dns", "-o", "jsonpath={.items[0].status.podIP}")
	if err != nil {
		t.Fatal(err)
	}
	metrics := "http://" + servers + ":9153/metrics"
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"resolve", "-timeout", "8s", "kubernetes.default"}, `"addresses":["10.43.0.1"]`},
		{[]string{"get", "-timeout", "8s", "http://" + s.Address() + "/"}, `"status":404`}, // the ingress has none for it
		{[]string{"get", "-timeout", "3s", metrics}, "Client.Timeout exceeded"},
	} {
		// It fails where an answer is not a good one, and prints it all the same.
		out, err := s.Command(ctx, "kubectl", append([]string{"exec", "asks", "--", "/echo"}, c.args...)...).Output()
		if !strings.Contains(string(out), c.want) {
			t.Errorf("echo %s: %v\n%s\nwant %s in it", strings.Join(c.args, " "), err, out, c.want)
		}
	}
	client := http.Client{Transport: &http.Transport{DialContext: s.DialContext, DisableKeepAlives: true}, Timeout: 5 * time.Second}
	r, err := client.Get(metrics)
	if err != nil {
		t.Fatalf("the node itself: %v", err)
	}
	if err := r.Body.Close(); err != nil || r.StatusCode != http.StatusOK {
		t.Errorf("the node itself is answered %s, %v", r.Status, err)
	}
}

func namespacesHavePolicies(ctx context.Context, t *testing.T, s *scenario) {
	client, err := s.Client()
	if err != nil {
		t.Fatal(err)
	}
	err = sealed.Wait(ctx, "the profile's policies", stepLimit, func(ctx context.Context) error {
		for _, name := range []string{"default", "kube-system", "kube-public", "kube-node-lease"} {
			namespace, err := client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if namespace.Annotations[cis.Applied] == "" {
				return fmt.Errorf("%s has none yet", name)
			}
			if _, err := client.NetworkingV1().NetworkPolicies(name).Get(ctx, "default-network-policy", metav1.GetOptions{}); err != nil {
				return err
			}
		}
		_, err := client.NetworkingV1().NetworkPolicies("kube-system").Get(ctx, "default-network-dns-policy", metav1.GetOptions{})
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func auditLogs(ctx context.Context, t *testing.T, s *scenario) {
	const secret = "never to be logged"
	if out, err := s.Kubectl(ctx, "create", "secret", "generic", "audited", "--from-literal=word="+secret); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	err := sealed.Wait(ctx, "the audit log", stepLimit, func(context.Context) error {
		log, err := os.ReadFile(s.Disk(node.DataDir + "/server/logs/audit.log"))
		if err != nil {
			return err
		}
		if bytes.Contains(log, []byte(secret)) || bytes.Contains(log, []byte(base64.StdEncoding.EncodeToString([]byte(secret)))) {
			return sealed.Hopeless(fmt.Errorf("it has the secret"))
		}
		for line := range bytes.Lines(log) {
			var event struct {
				Verb      string
				User      struct{ Username string }
				ObjectRef struct{ Resource, Name string }
			}
			if err := json.Unmarshal(line, &event); err != nil {
				continue // the last line may be half written
			}
			if event.Verb == "create" && event.ObjectRef.Resource == "secrets" && event.User.Username == "system:admin" {
				return nil
			}
		}
		return fmt.Errorf("in %d bytes nobody created a secret", len(log))
	})
	if err != nil {
		t.Error(err)
	}
}

// settingsRestart: the pods of a changed policy and of a changed argument are restarted
// with the node, the others go on. Metrics and the log's other form come along.
func settingsRestart(ctx context.Context, t *testing.T, s *scenario) {
	if err := s.Stop(ctx, stopLimit); err != nil {
		t.Fatal(err)
	}
	config, err := os.ReadFile(s.Path(node.ConfigFile))
	if err != nil {
		t.Fatal(err)
	}
	config = append(config, "control-plane-resource-requests: [kube-scheduler-cpu=50m]\ncontrol-plane-probe-configuration: kube-scheduler-readiness-period-seconds=2\n"+
		"log-format: json\nsupervisor-metrics: true\ndebug: true\nkube-proxy-image: mine\n"...)
	policy, err := os.ReadFile(s.Path(cis.AuditPolicyFile))
	if err != nil {
		t.Fatal(err)
	}
	for path, content := range map[string][]byte{node.ConfigFile: config, cis.AuditPolicyFile: append(policy, "# mine\n"...)} {
		if err := s.WriteFile(path, content); err != nil {
			t.Fatal(err)
		}
	}
	restarted := map[string]bool{"kube-apiserver": true, "kube-scheduler": true}
	before, manifests := pidsOf(t, s), podManifests(t, s)
	node.NextSecond()
	if err := s.Start(ctx); err != nil {
		t.Fatal(err)
	}
	err = sealed.Wait(ctx, "the changed pods", stepLimit, func(context.Context) error {
		now := pidsOf(t, s)
		for name, pid := range before {
			switch {
			case restarted[name] && (now[name] == pid || now[name] == 0):
				return fmt.Errorf("%s is still process %d", name, now[name])
			case (name == "etcd" || name == "probe") && now[name] != pid:
				return sealed.Hopeless(fmt.Errorf("%s was process %d and is %d", name, pid, now[name]))
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	// The controller managers may end by themselves: while the API server is replaced, they
	// can't renew their leases. What the node asks for must be as it was.
	for name, content := range podManifests(t, s) {
		if same := bytes.Equal(content, manifests[name]); same == restarted[name] {
			t.Errorf("the manifest of %s: unchanged is %t", name, same)
		}
	}
	if err := s.WaitReady(ctx, bootLimit); err != nil {
		t.Fatal(err)
	}
	if err := s.WaitControlPlane(ctx, stepLimit); err != nil {
		t.Fatal(err)
	}
	report(t, "restart with a changed audit policy and scheduler, control plane's pods Running", time.Since(s.Started()))
	client, err := s.Client()
	if err != nil {
		t.Fatal(err)
	}
	pod, err := client.CoreV1().Pods("kube-system").Get(ctx, "kube-scheduler-"+s.Name(), metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	scheduler := pod.Spec.Containers[0]
	if cpu := scheduler.Resources.Requests.Cpu().String(); cpu != "50m" || scheduler.ReadinessProbe == nil || scheduler.ReadinessProbe.PeriodSeconds != 2 {
		t.Errorf("the scheduler asks for %s, readiness %+v", cpu, scheduler.ReadinessProbe)
	}
	metrics(ctx, t, s)
	logsJSON(t, s)
	if policy, err := os.ReadFile(s.Path(cis.AuditPolicyFile)); err != nil || !bytes.HasSuffix(policy, []byte("# mine\n")) {
		t.Errorf("the operator's policy was overwritten: %v", err)
	}
	if err := s.Stop(ctx, stopLimit); err != nil {
		t.Error(err)
	}
}

// podManifests are what the node asks the kubelet to run, by static pod.
func podManifests(t *testing.T, s *scenario) map[string][]byte {
	t.Helper()
	manifests := map[string][]byte{}
	for _, name := range node.ControlPlane {
		content, err := os.ReadFile(s.Path(node.DataDir + "/agent/pod-manifests/" + name + ".yaml"))
		if err != nil {
			t.Fatal(err)
		}
		manifests[name] = content
	}
	return manifests
}

// pidsOf are the processes of the control plane and of the probe.
func pidsOf(t *testing.T, s *scenario) map[string]int {
	t.Helper()
	pids := map[string]int{}
	for _, name := range append([]string{"probe"}, node.ControlPlane...) {
		found, err := s.Find(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range found {
			pids[name] = p.Pid
		}
	}
	return pids
}

// metrics asks the supervisor for the node's own, as the cluster's administrator.
func metrics(ctx context.Context, t *testing.T, s *scenario) {
	t.Helper()
	raw, err := os.ReadFile(s.Path(node.Kubeconfig))
	if err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.RESTConfigFromKubeConfig(raw)
	if err != nil {
		t.Fatal(err)
	}
	secure, err := rest.TLSConfigFor(config)
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{Transport: &http.Transport{DialContext: s.DialContext, TLSClientConfig: secure, DisableKeepAlives: true}, Timeout: 5 * time.Second}
	err = sealed.Wait(ctx, "the node's metrics", stepLimit, func(context.Context) error {
		r, err := client.Get("https://127.0.0.1:9345/metrics")
		if err != nil {
			return err
		}
		defer r.Body.Close()
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return err
		}
		for _, want := range []string{"rke2_build_info{", "rke2_start_phase_seconds{", "go_goroutines"} {
			if !bytes.Contains(body, []byte(want)) {
				return fmt.Errorf("%s: no %s in %d bytes", r.Status, want, len(body))
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func logsJSON(t *testing.T, s *scenario) {
	t.Helper()
	log, err := s.Log()
	if err != nil {
		t.Fatal(err)
	}
	var idle, debug bool
	for line := range strings.Lines(log) {
		var entry struct{ Level, Msg string }
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Errorf("not JSON: %s", line)
			return
		}
		idle = idle || entry.Level == "warning" && strings.Contains(entry.Msg, filepath.Base(node.ConfigFile)) && strings.Contains(entry.Msg, "kube-proxy-image has no effect")
		debug = debug || entry.Level == "debug"
	}
	if !idle || !debug {
		t.Errorf("the option without effect is told: %v; debug is on: %v", idle, debug)
	}
}
