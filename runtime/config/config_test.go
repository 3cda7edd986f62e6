package config

import (
	"strings"
	"testing"

	"github.com/rancher/rke2/airgap/trust"
	"github.com/rancher/rke2/charts"
	"github.com/rancher/rke2/images"
)

func sample() Config {
	return Config{
		Role: Server, DataDir: "/var/lib/x", Verification: trust.ModeSystem,
		Charts:         charts.Choice{CNI: []string{"canal"}, IngressController: []string{"ingress-nginx"}},
		ImageOverrides: map[string]string{},
		Release: images.Release{Images: []images.ReleaseImage{
			{Role: RoleRuntime, Reference: "docker.io/rancher/rke2-runtime:v1"},
			{Role: RoleKubernetes, Reference: "docker.io/rancher/hardened-kubernetes:v1"},
			{Role: RoleEtcd, Reference: "docker.io/rancher/hardened-etcd:v3"},
			{Role: RolePause, Reference: "docker.io/rancher/mirrored-pause:v0"},
		}},
	}
}

func TestCheck(t *testing.T) {
	if err := sample().Check(); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"relative folder": {func(c *Config) { c.DataDir = "x" }, "absolute"},
		"verification":    {func(c *Config) { c.Verification = "never" }, "system, all, off"},
		"zero mode":       {func(c *Config) { c.Verification = "" }, "system, all, off"},
		"no cni":          {func(c *Config) { c.Charts.CNI = nil }, "`cni: none`"},
		"two networks":    {func(c *Config) { c.Charts.CNI = []string{"canal", "flannel"} }, "choose one"},
		"multus last":     {func(c *Config) { c.Charts.CNI = []string{"canal", "multus"} }, "multus comes first"},
		"multus alone":    {func(c *Config) { c.Charts.CNI = []string{"multus"} }, "[multus, canal]"},
		"none of two":     {func(c *Config) { c.Charts.IngressController = []string{"none", "ingress-nginx"} }, "none cannot be with others"},
		"no release":      {func(c *Config) { c.Release = images.Release{} }, "make airgap"},
		"bad override":    {func(c *Config) { c.ImageOverrides[RoleEtcd] = "a:b:c" }, "etcd-image"},
		"short digest":    {func(c *Config) { c.ImageOverrides[RoleEtcd] = "a@sha256:00" }, "etcd-image"},
		"registry":        {func(c *Config) { c.SystemDefaultRegistry = "bad registry" }, "system-default-registry"},
	} {
		t.Run(name, func(t *testing.T) {
			s := sample()
			c.change(&s)
			if err := s.Check(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q in it", err, c.want)
			}
		})
	}
}

func TestImages(t *testing.T) {
	c := sample()
	c.SystemDefaultRegistry = "registry.example.com:5000"
	c.ImageOverrides["kube-scheduler"] = "busybox"
	digest := "@sha256:" + strings.Repeat("0", 64)
	c.ImageOverrides["kube-controller-manager"] = "busybox:1" + digest
	for component, want := range map[string]string{
		"etcd":           "registry.example.com:5000/rancher/hardened-etcd:v3",
		"kube-apiserver": "registry.example.com:5000/rancher/hardened-kubernetes:v1",
		"kube-scheduler": "docker.io/library/busybox:latest",
		// A tag beside a digest says nothing.
		"kube-controller-manager": "docker.io/library/busybox" + digest,
	} {
		got, err := c.ComponentImage(component)
		if err != nil || got.String() != want {
			t.Errorf("%s: got %v, %v, want %s", component, got, err, want)
		}
	}
	candidates, err := c.Candidates(RoleRuntime)
	if err != nil || len(candidates) != 2 || candidates[0].String() != "docker.io/rancher/rke2-runtime:v1" || candidates[1].String() != "registry.example.com:5000/rancher/rke2-runtime:v1" {
		t.Errorf("candidates: %v, %v", candidates, err)
	}
}

func TestComponents(t *testing.T) {
	const cloud = "docker.io/rancher/rke2-cloud-provider:v5"
	for name, c := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"a server":                           {func(*Config) {}, "etcd kube-apiserver kube-controller-manager kube-scheduler"},
		"an agent":                           {func(c *Config) { c.Role, c.CloudController, c.Charts = Agent, true, charts.Choice{} }, ""},
		"its own cloud controller manager":   {func(c *Config) { c.CloudController = true }, "etcd kube-apiserver kube-controller-manager kube-scheduler cloud-controller-manager"},
		"another datastore":                  {func(c *Config) { c.Without = []string{"etcd"} }, "kube-apiserver kube-controller-manager kube-scheduler"},
		"controllers are on another server":  {func(c *Config) { c.CloudController, c.Without = true, []string{"kube-controller-manager"} }, "etcd kube-apiserver kube-scheduler"},
		"a release that has no such manager": {func(c *Config) { c.CloudController, c.Release.Images = true, c.Release.Images[:4] }, "no cloud-controller-manager image"},
	} {
		t.Run(name, func(t *testing.T) {
			s := sample()
			s.Release.Images = append(s.Release.Images, images.ReleaseImage{Role: RoleCloudController, Reference: cloud})
			c.change(&s)
			if err := s.Check(); err != nil {
				if !strings.Contains(err.Error(), c.want) {
					t.Errorf("got %v, want %q in it", err, c.want)
				}
				return
			}
			if got := strings.Join(s.Components(), " "); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if ref, err := s.ComponentImage(RoleCloudController); err != nil || ref.String() != cloud {
				t.Errorf("%v, %v", ref, err)
			}
		})
	}
}

func TestNetworksThatGoTogether(t *testing.T) {
	for _, cni := range [][]string{{"none"}, {"canal"}, {"flannel"}, {"multus", "canal"}, {"multus", "none"}} {
		c := sample()
		c.Charts.CNI = cni
		if err := c.Check(); (err != nil) != (len(cni) > 1 && cni[1] == "none") {
			t.Errorf("%v: %v", cni, err)
		}
	}
	agent := sample()
	agent.Role, agent.Charts = Agent, charts.Choice{}
	if err := agent.Check(); err != nil {
		t.Errorf("an agent is told of charts: %v", err)
	}
}
