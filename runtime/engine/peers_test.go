package engine

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	daemonconfig "github.com/k3s-io/k3s/pkg/daemons/config"
	"github.com/k3s-io/k3s/pkg/spegel"
	"github.com/pelletier/go-toml/v2"
	"github.com/rancher/wharfie/pkg/registries"

	"github.com/rancher/rke2/airgap/trust"
	"github.com/rancher/rke2/runtime/config"
)

func TestPeersOnly(t *testing.T) {
	before := *spegel.DefaultRegistry
	t.Cleanup(func() { *spegel.DefaultRegistry = before })
	spegel.DefaultRegistry.InternalAddress, spegel.DefaultRegistry.RegistryPort = "127.0.0.1", "9345"
	node := &daemonconfig.Node{}
	node.AgentConfig.Registry = &registries.Registry{Mirrors: map[string]registries.Mirror{
		"docker.io": {Endpoints: []string{"https://127.0.0.1:9345/v2", "https://registry.example"}, Rewrites: map[string]string{"a": "b"}},
	}}
	e := &Executor{log: slog.New(slog.DiscardHandler)}
	e.peersOnly(node)
	if !node.Containerd.NoDefault || len(node.AgentConfig.Registry.Mirrors) != 2 {
		t.Errorf("%+v", node)
	}
	for host, m := range node.AgentConfig.Registry.Mirrors {
		if len(m.Endpoints) != 1 || m.Endpoints[0] != "https://127.0.0.1:9345/v2" || len(m.Rewrites) > 0 {
			t.Errorf("%s: %+v", host, m)
		}
	}
}

func TestCheckPulls(t *testing.T) {
	dir := t.TempDir()
	node := &daemonconfig.Node{EmbeddedRegistry: true}
	node.AgentConfig.Registry = &registries.Registry{}
	node.AgentConfig.Snapshotter = "overlayfs"
	node.Containerd.Config = filepath.Join(dir, "config.toml")
	verifier := filepath.Join(dir, "verifiers", "rke2")
	const generated = "version = 3\n[plugins.'io.containerd.cri.v1.images']\n  use_local_image_pull = true\n  snapshotter = 'overlayfs'\n"
	write(t, node.Containerd.Config, generated)
	e := &Executor{config: config.Config{Verification: trust.ModeAll, TrustDir: "/etc/it's", ImageOverrides: map[string]string{"etcd": "example.com/etcd:v1"}}}
	if err := e.checkPulls(node); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(node.Containerd.Config)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Plugins struct {
			Images struct {
				Local       bool   `toml:"use_local_image_pull"`
				Snapshotter string `toml:"snapshotter"`
			} `toml:"io.containerd.cri.v1.images"`
			Verifier struct {
				Dir string `toml:"bin_dir"`
				Max int    `toml:"max_verifiers"`
			} `toml:"io.containerd.image-verifier.v1.bindir"`
		} `toml:"plugins"`
	}
	if err := toml.Unmarshal(raw, &got); err != nil || got.Plugins.Images.Local || got.Plugins.Images.Snapshotter != "overlayfs" ||
		got.Plugins.Verifier.Dir != filepath.Dir(verifier) || got.Plugins.Verifier.Max < 1 {
		t.Errorf("%v\n%s", err, raw)
	}
	script, err := os.ReadFile(verifier)
	if err != nil || !strings.Contains(string(script), `'--trust-dir=/etc/it'\''s'`) || !strings.Contains(string(script), `'--system=example.com/etcd:v1' -- "$@"`) {
		t.Errorf("%v\n%s", err, script)
	}
	if info, err := os.Stat(verifier); err != nil || info.Mode().Perm()&0o100 == 0 {
		t.Errorf("the verifier cannot be run: %v, %v", info, err)
	}

	node.AgentConfig.Registry.Configs = map[string]registries.RegistryConfig{"registry.example": {Auth: &registries.AuthConfig{Username: "u"}}}
	if err := e.checkPulls(node); err == nil || !strings.Contains(err.Error(), "registry.example") {
		t.Errorf("with a password that makes containerd pull unchecked: %v", err)
	}
	node.AgentConfig.Registry.Configs = nil
	for name, off := range map[string]func(){
		"verification is off":            func() { e.config.Verification = trust.ModeOff },
		"only the system's, no peers":    func() { e.config.Verification, node.EmbeddedRegistry = trust.ModeSystem, false },
		"offline, without peers, no way": func() { e.config.Verification, e.config.Offline, node.EmbeddedRegistry = trust.ModeAll, true, false },
	} {
		write(t, node.Containerd.Config, generated)
		write(t, verifier, "old")
		e.config.Offline, node.EmbeddedRegistry = false, true
		off()
		if err := e.checkPulls(node); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(verifier); err == nil {
			t.Errorf("%s: the verifier stays", name)
		}
		if raw, _ := os.ReadFile(node.Containerd.Config); string(raw) != generated {
			t.Errorf("%s: changed to\n%s", name, raw)
		}
	}
}
