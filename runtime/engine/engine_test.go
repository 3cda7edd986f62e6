package engine

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/k3s-io/k3s/pkg/cli/cmds"
	"github.com/pelletier/go-toml/v2"

	"github.com/rancher/rke2/airgap/trust"
	"github.com/rancher/rke2/images"
	"github.com/rancher/rke2/runtime/config"
	"github.com/rancher/rke2/runtime/host"
	"github.com/rancher/rke2/runtime/pod"
)

// release is one in form; nothing in it exists.
var release = images.Release{
	Version: "v9.8.7+rke2r6", Kubernetes: "v9.8.7",
	Images: []images.ReleaseImage{
		{Name: "a", Role: config.RoleRuntime, Reference: "docker.io/rancher/rke2-runtime:v9.8.7-rke2r6"},
		{Name: "b", Role: config.RoleKubernetes, Reference: "docker.io/rancher/hardened-kubernetes:v9.8.7-rke2r6"},
		{Name: "c", Role: config.RoleEtcd, Reference: "docker.io/rancher/hardened-etcd:v3"},
		{Name: "d", Role: config.RolePause, Reference: "docker.io/rancher/mirrored-pause:v1"},
		{Name: "e", Role: config.RoleHelmJob, Reference: "docker.io/rancher/klipper-helm:v2"},
	},
}

// TestParse is one test because the engine's settings are globals.
func TestParse(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "config.yaml")
	write(t, file, "offline: true\ncni: [multus, flannel]\ntoken: from-file\nnode-label:\n- a=b\nkube-apiserver-arg: [v=2, audit-log-maxage=7]\ndata-dir: "+dir+"\n"+
		"etcd-expose-metrics: yes\nnode-taint: 010\nflannel-backend: none\nkube-proxy-arg: v=1\nnode-lable: x\n"+
		"control-plane-resource-requests: etcd-memory=1Gi\ncontrol-plane-probe-configuration: [etcd-startup-failure-threshold=90]\n"+
		"profile: cis\npod-security-admission-config-file: /x/pss.yaml\nnode-ip: [192.0.2.1, '2001:db8::1']\ncloud-provider-name: external\nkubelet-arg: v=3\n"+
		"kube-proxy-image: x\ndisable: ['rke2-metrics-server,rke2-coredns', x]\n")
	write(t, filepath.Join(dir, "config.yaml.d", "10-more.yaml"), "node-label+: [c=d]\nwrite-kubeconfig-mode: \"0640\"\n")
	t.Setenv("RKE2_NODE_NAME", "from-env")
	t.Setenv("RKE2_TOKEN", "from-env")
	t.Setenv("RKE2_IMAGE_VERIFICATION", "all")

	inv, err := Parse(config.Server, []string{"--config=" + file, "--token=from-args", "--etcd-extra-mount=/a:/b:ro", "--kube-scheduler-image=example.com/x/scheduler:1"}, release)
	if err != nil {
		t.Fatal(err)
	}
	c := inv.Config
	checks := []struct {
		what      string
		got, want any
	}{
		{"offline (file)", c.Offline, true},
		{"data-dir (file)", c.DataDir, dir},
		{"image-verification (environment)", c.Verification, trust.ModeAll},
		{"token (argument over file over environment)", cmds.ServerConfig.Token, "from-args"},
		{"node-name (environment)", cmds.AgentConfig.NodeName, "from-env"},
		{"kubeconfig mode (drop-in)", cmds.ServerConfig.KubeConfigMode, "0640"},
		{"node-label (file and drop-in)", strings.Join(cmds.AgentConfig.Labels.Value(), " "), "a=b c=d"},
		{"extra mount", strings.Join(c.ExtraMounts["etcd"], " "), "/a:/b:ro"},
		{"image of helm jobs (release)", cmds.ServerConfig.HelmJobImage, "docker.io/rancher/klipper-helm:v2"},
		{"supervisor port", cmds.ServerConfig.SupervisorPort, 9345},
		{"octal mode without quotes is as it is written", cmds.AgentConfig.Taints.Value()[0], "010"},
		{"YAML's other word for true", cmds.ServerConfig.EtcdExposeMetrics, true},
		{"resource requests", c.Requests["etcd"]["memory"], "1Gi"},
		{"probes", c.Probes["etcd"]["startup"].Failures, int32(90)},
		{"profile", c.Profile, "cis"},
		{"the profile protects the kernel's defaults", cmds.AgentConfig.ProtectKernelDefaults, true},
		{"the profile's audit policy, and the operator's own maxage", strings.Join(cmds.ServerConfig.ExtraAPIArgs.Value(), " "),
			"v=2 audit-log-maxage=7 audit-policy-file=/etc/rancher/rke2/audit-policy.yaml audit-log-path=" + dir + "/server/logs/audit.log" +
				" audit-log-maxbackup=10 audit-log-maxsize=100 admission-control-config-file=/x/pss.yaml"},
		{"several addresses of a node, which the engine keeps from the kubelet", strings.Join(cmds.AgentConfig.ExtraKubeletArgs.Value(), " "),
			"node-ip=192.0.2.1,2001:db8::1 cloud-provider=external v=3"},
		{"arguments of kube-proxy", strings.Join(cmds.AgentConfig.ExtraKubeProxyArgs.Value(), " "), "v=1"},
		{"kube-proxy is deployed", cmds.ServerConfig.DisableKubeProxy, false},
		{"networks (file)", strings.Join(c.Charts.CNI, " "), "multus flannel"},
		{"ingress controllers (default)", strings.Join(c.Charts.IngressController, " "), "ingress-nginx"},
		{"default ingress class", c.Cluster.IngressClass, "ingress-nginx"},
		{"charts that are not deployed (file), without the engine's word", strings.Join(c.Charts.Disable, " "), "rke2-metrics-server rke2-coredns x"},
		{"what the engine is told of them", strings.Join(inv.cli.StringSlice("disable"), " "), "rke2-metrics-server,rke2-coredns x servicelb"},
		{"warnings", strings.Join(inv.Warnings, "\n"), file + `:12: unknown option "node-lable": did you mean node-label? (it is not used)` + "\n" +
			file + ":20: kube-proxy-image has no effect: " + chartProxy},
	}
	for _, check := range checks {
		if check.got != check.want {
			t.Errorf("%s: got %v, want %v", check.what, check.got, check.want)
		}
	}
	if ref, err := c.ComponentImage("kube-scheduler"); err != nil || ref.String() != "example.com/x/scheduler:1" {
		t.Errorf("scheduler image: %v, %v", ref, err)
	}
	if ref, err := c.ComponentImage("kube-apiserver"); err != nil || ref.String() != "docker.io/rancher/hardened-kubernetes:v9.8.7-rke2r6" {
		t.Errorf("apiserver image: %v, %v", ref, err)
	}

	for want, args := range map[string][]string{
		"must be one of":        {"--config=" + file, "--image-verification=maybe"},
		"pods have one network": {"--config=" + file, "--cni=canal", "--cni=flannel"},
		"unexpected argument":   {"--config=" + file, "stray"},
		"unknown option --not-an-option: `rke2 server --help`": {"--config=" + file, "--not-an-option=1"},
		"unknown option --offlien: did you mean --offline?":    {"--config=" + file, "--offlien"},
		"--docker is not an option here":                       {"--config=" + file, "--docker=true"},
		"set `profile: cis`":                                   {"--config=" + file, "--profile=cis-1.23"},
		"must be one of none, rke2, external":                  {"--config=" + file, "--cloud-provider-name=aws"},
		"the file is not there":                                {"--config=" + file + ".absent"},
	} {
		if _, err := Parse(config.Server, args, release); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q in it", args, err, want)
		}
	}
	for _, c := range refusedConfigs {
		write(t, file, c.content)
		if _, err := Parse(config.Server, []string{"--config=" + file}, release); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%q: got %v, want %q in it", c.content, err, c.says)
		}
	}
	write(t, file, "token: from-file\ncluster-cidr: 10.0.0.0/8\ncni: canal\nkube-proxy-arg: v=4\n")
	agent, err := Parse(config.Agent, []string{"--config=" + file, "--server=https://192.0.2.7:9345"}, release)
	if err != nil || agent.Config.Join != "https://192.0.2.7:9345" || cmds.AgentConfig.Token != "from-file" ||
		!slices.Contains(cmds.AgentConfig.ExtraKubeProxyArgs.Value(), "v=4") ||
		len(agent.Warnings) != 3 || !strings.Contains(agent.Warnings[1], "cni is not an option of this command") || !strings.Contains(agent.Warnings[0], "cluster-cidr is not an option of this command") {
		t.Errorf("an agent: %+v, %v", agent, err)
	}
	write(t, file, "offline: [\n")
	if _, err := Parse(config.Server, []string{"--config=" + file}, release); err == nil || !strings.Contains(err.Error(), "configuration file") {
		t.Errorf("broken file: %v", err)
	}
}

func TestFlags(t *testing.T) {
	for _, role := range []config.Role{config.Server, config.Agent} {
		seen := map[string]bool{}
		for _, f := range Flags(role) {
			if seen[f.Name] {
				t.Errorf("%s: --%s twice", role, f.Name)
			}
			seen[f.Name] = true
			if f.Usage == "" {
				t.Errorf("%s: --%s has no description", role, f.Name)
			}
			if _, gone := former[f.Name]; gone && !f.Hidden {
				t.Errorf("%s: --%s is not supported but offered", role, f.Name)
			}
		}
		for _, must := range []string{"config", "data-dir", "token", "server", "node-name", "kubelet-arg", "offline", "image-verification", "private-registry", "system-default-registry"} {
			if !seen[must] {
				t.Errorf("%s: no --%s", role, must)
			}
		}
	}
}

func TestRestrictOOMScore(t *testing.T) {
	for version, plugin := range map[string]string{"2": "io.containerd.grpc.v1.cri", "3": "io.containerd.cri.v1.runtime"} {
		file := filepath.Join(t.TempDir(), "config.toml")
		write(t, file, "version = "+version+"\nroot = '/x'\n[plugins.'"+plugin+"']\nenable_selinux = true\n")
		for range 2 { // the second time changes nothing
			if err := restrictOOMScore(file); err != nil {
				t.Fatal(err)
			}
		}
		raw, _ := os.ReadFile(file)
		var got struct {
			Root    string
			Plugins map[string]map[string]any
		}
		if err := toml.Unmarshal(raw, &got); err != nil {
			t.Fatal(err)
		}
		if got.Root != "/x" || got.Plugins[plugin]["restrict_oom_score_adj"] != true || got.Plugins[plugin]["enable_selinux"] != true {
			t.Errorf("version %s: got %s", version, raw)
		}
	}
	for name, content := range map[string]string{"not TOML": "[[[", "unknown version": "version = 9"} {
		file := filepath.Join(t.TempDir(), "config.toml")
		write(t, file, content)
		if err := restrictOOMScore(file); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: got %v, want the file's name in it", name, err)
		}
		if raw, _ := os.ReadFile(file); string(raw) != content {
			t.Errorf("%s: the file was changed to %q", name, raw)
		}
	}
}

func TestTemporaryEtcdArgsStayWithIt(t *testing.T) {
	theirs := []string{"election-timeout=9000"}
	if got := withoutTemporary(append(slices.Clone(temporaryEtcd), theirs...)); !slices.Equal(got, theirs) {
		t.Errorf("the static pod would get %q, want %q", got, theirs)
	}
	if got := withoutTemporary(theirs); !slices.Equal(got, theirs) {
		t.Errorf("got %q", got)
	}
}

func TestInputsDigest(t *testing.T) {
	dir := t.TempDir()
	cert, policy := filepath.Join(dir, "cert"), filepath.Join(dir, "policy")
	write(t, cert, "1")
	c := pod.Component{Name: "x", Args: []string{"--cert=" + cert, "--dir=" + dir, "--policy=" + policy, "--v=2"}}
	digest := func() string { return digestOf(t, c) }
	first := digest()
	if digest() != first {
		t.Error("nothing changed, but the digest did")
	}
	write(t, cert, "2")
	second := digest()
	if second == first {
		t.Error("the certificate changed, the digest did not")
	}
	write(t, policy, "p")
	if digest() == second {
		t.Error("a file appeared, the digest did not change")
	}
}

func TestChildEnvironment(t *testing.T) {
	env := []string{"PATH=/bin", "NOTIFY_SOCKET=/run/x", "RKE2_TOKEN=secret", "CONTAINERD_HTTPS_PROXY=p", "HTTPS_PROXY=q"}
	if got := childEnv(env); !slices.Equal(got, []string{"PATH=/bin", "CONTAINERD_HTTPS_PROXY=p", "HTTPS_PROXY=q"}) {
		t.Errorf("kubelet: %q", got)
	}
	if got := containerdEnv(env); !slices.Equal(got, []string{"PATH=/bin", "HTTPS_PROXY=q", "HTTPS_PROXY=p"}) {
		t.Errorf("containerd: %q", got)
	}
}

func TestProcessTellsItsLastWords(t *testing.T) {
	p := shell(t, "echo starting; echo the disk is full >&2; exit 3")
	err := p.run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "the disk is full") || !strings.Contains(err.Error(), p.logFile) {
		t.Errorf("got %v", err)
	}
	if raw, _ := os.ReadFile(p.logFile); string(raw) != "starting\nthe disk is full\n" {
		t.Errorf("log: %q", raw)
	}
}

func TestProcessEndsWithItsContext(t *testing.T) {
	p := shell(t, "trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := p.run(ctx); err != nil {
		t.Errorf("a requested end is no error: %v", err)
	}
}

func TestProcessIsKept(t *testing.T) {
	p := shell(t, "echo run; exit 1")
	ctx, cancel := context.WithTimeout(t.Context(), 2500*time.Millisecond)
	defer cancel()
	p.keep(ctx)
	raw, _ := os.ReadFile(p.logFile)
	// At once, after 0 s, after 1 s; the next would be after 3 s.
	if n := strings.Count(string(raw), "run\n"); n != 3 {
		t.Errorf("it ran %d times in 2.5 s, want 3", n)
	}
}

func shell(t *testing.T, script string) process {
	return process{name: "sh", path: "/bin/sh", args: []string{"-c", script}, logFile: filepath.Join(t.TempDir(), "log"), log: slog.New(slog.DiscardHandler)}
}

func TestReadiness(t *testing.T) {
	r := newReadiness()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := r.wait(ctx, "a"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	r.set("a")
	r.set("a")
	if err := r.wait(t.Context(), "a"); err != nil {
		t.Error(err)
	}
}

func TestAnonymousHealth(t *testing.T) {
	e := newExecutor(config.Config{DataDir: t.TempDir()}, host.Facts{}, nil, slog.New(slog.DiscardHandler))
	args, err := e.anonymousHealth([]string{"--anonymous-auth=false", "--v=1"})
	if err != nil {
		t.Fatal(err)
	}
	if len(args) != 2 || args[0] != "--v=1" || !strings.HasPrefix(args[1], "--authentication-config=") {
		t.Errorf("got %q", args)
	}
	for _, theirs := range [][]string{{"--anonymous-auth=true"}, {"--authentication-config=/x"}} {
		if got, err := e.anonymousHealth(theirs); err != nil || !slices.Equal(got, theirs) {
			t.Errorf("the operator's %q became %q, %v", theirs, got, err)
		}
	}
}

func write(t *testing.T, file, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}
