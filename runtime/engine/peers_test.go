package engine

import (
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/k3s-io/k3s/pkg/agent/templates"
	daemonconfig "github.com/k3s-io/k3s/pkg/daemons/config"
	"github.com/k3s-io/k3s/pkg/spegel"
	"github.com/pelletier/go-toml/v2"
	"github.com/rancher/wharfie/pkg/registries"

	"github.com/rancher/rke2/airgap/trust"
	"github.com/rancher/rke2/runtime/config"
)

// shelf is content with images of two registries.
type shelf struct {
	Content
	asksPeers bool
}

func (s *shelf) AskPeers()            { s.asksPeers = true }
func (s *shelf) Registries() []string { return []string{"docker.io", "registry.example"} }

func TestSharesImages(t *testing.T) {
	before := *spegel.DefaultRegistry
	t.Cleanup(func() { *spegel.DefaultRegistry = before })
	spegel.DefaultRegistry.InternalAddress, spegel.DefaultRegistry.RegistryPort = "127.0.0.1", "9345"
	const peers = "https://127.0.0.1:9345/v2"
	node := &daemonconfig.Node{}
	node.AgentConfig.Registry = &registries.Registry{Mirrors: map[string]registries.Mirror{
		"docker.io": {Endpoints: []string{peers, "https://registry.example"}, Rewrites: map[string]string{"a": "b"}},
	}}
	content := &shelf{}
	e := &Executor{log: slog.New(slog.DiscardHandler), config: config.Config{Offline: true}, content: content}
	e.sharesImages(node)
	if !node.Containerd.NoDefault || !content.asksPeers {
		t.Errorf("%+v, peers are asked: %t", node.Containerd, content.asksPeers)
	}
	// The engine's registry must not see a name for all.
	if hosts := slices.Sorted(maps.Keys(node.AgentConfig.Registry.Mirrors)); !slices.Equal(hosts, content.Registries()) {
		t.Errorf("it shares images of %q", hosts)
	}
	for host, m := range node.AgentConfig.Registry.Mirrors {
		if len(m.Endpoints) != 1 || m.Endpoints[0] != peers || len(m.Rewrites) > 0 {
			t.Errorf("%s: %+v", host, m)
		}
	}

	// Not offline, it shares what the operator names.
	node = &daemonconfig.Node{}
	node.AgentConfig.Registry = &registries.Registry{Mirrors: map[string]registries.Mirror{"quay.example": {}}}
	e = &Executor{log: e.log, content: &shelf{}}
	e.sharesImages(node)
	if len(node.AgentConfig.Registry.Mirrors) != 1 || node.Containerd.NoDefault || e.everyMirror != nil {
		t.Errorf("%+v", node.AgentConfig.Registry.Mirrors)
	}
}

func TestWithoutDefault(t *testing.T) {
	file := filepath.Join(t.TempDir(), "hosts.toml")
	for content, want := range map[string]string{
		templates.HostsTomlHeader + "\n[host]\n":                 templates.HostsTomlHeader + nowhere + "\n[host]\n",
		templates.HostsTomlHeader + "\nserver = \"x\"\n[host]\n": templates.HostsTomlHeader + "\nserver = \"x\"\n[host]\n",
		"# an operator's own\n[host]\n":                          "# an operator's own\n[host]\n",
	} {
		write(t, file, content)
		if err := withoutDefault(file); err != nil {
			t.Error(err)
		}
		if got, err := os.ReadFile(file); err != nil || string(got) != want {
			t.Errorf("of %q came %q, want %q (%v)", content, got, want, err)
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
