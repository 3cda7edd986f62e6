package engine

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/k3s-io/k3s/pkg/agent/templates"
	daemonconfig "github.com/k3s-io/k3s/pkg/daemons/config"
	"github.com/k3s-io/k3s/pkg/spegel"
	"github.com/pelletier/go-toml/v2"
	"github.com/rancher/wharfie/pkg/registries"

	"github.com/rancher/rke2/airgap/trust"
	"github.com/rancher/rke2/runtime/durable"
)

// peersOnly has containerd ask the other nodes for every image, and nobody else: offline
// means no registry, and with the embedded registry the nodes are each other's.
func (e *Executor) peersOnly(node *daemonconfig.Node) {
	peers := "https://" + net.JoinHostPort(spegel.DefaultRegistry.InternalAddress, spegel.DefaultRegistry.RegistryPort) + "/v2"
	registry := node.AgentConfig.Registry
	for host, mirror := range registry.Mirrors {
		mirror.Endpoints, mirror.Rewrites = []string{peers}, nil
		registry.Mirrors[host] = mirror
	}
	if _, ok := registry.Mirrors["*"]; !ok {
		registry.Mirrors["*"] = registries.Mirror{Endpoints: []string{peers}}
	}
	node.Containerd.NoDefault = true
	if c, ok := e.content.(interface{ AskPeers() }); ok {
		c.AskPeers()
	}
	e.log.Info("images that no bundle here has are asked of the other nodes, and of nobody else", "registry", peers)
}

// checksPulls tells whether what containerd pulls must pass the trust policy. Without the
// embedded registry, system images by digest are all that the policy speaks of in the
// mode system, and the digest is proof enough.
func (e *Executor) checksPulls(node *daemonconfig.Node) bool {
	switch e.config.Verification {
	case trust.ModeOff:
		return false
	case trust.ModeSystem:
		return node.EmbeddedRegistry
	}
	return node.EmbeddedRegistry || !e.config.Offline
}

// checkPulls has containerd ask this program about every image before it pulls it
// (containerd's image verifiers: a folder of programs that judge a name and a digest).
func (e *Executor) checkPulls(node *daemonconfig.Node) error {
	folder := filepath.Join(filepath.Dir(node.Containerd.Config), "verifiers")
	if !e.checksPulls(node) {
		return os.RemoveAll(folder)
	}
	for host, c := range node.AgentConfig.Registry.Configs {
		if c.Auth != nil {
			return fmt.Errorf("image-verification %s with a password for %s in %s: containerd cannot have its pulls checked so: take the password out and give it to pods (imagePullSecrets) or by --image-credential-provider-config, or use image-verification: system", e.config.Verification, host, e.config.PrivateRegistry)
		}
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("having pulls checked: %w", err)
	}
	words := []string{self, "verify-pull", "--mode=" + string(e.config.Verification), "--trust-dir=" + e.config.TrustDir}
	for _, image := range e.config.ImageOverrides {
		words = append(words, "--system="+image)
	}
	for i, w := range words {
		words[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
	}
	script := "#!/bin/sh\nexec " + strings.Join(words, " ") + ` -- "$@"` + "\n"
	if err := durable.WriteFile(filepath.Join(folder, "rke2"), []byte(script), 0o700); err != nil {
		return fmt.Errorf("having pulls checked: %w", err)
	}
	return adapt(node.Containerd.Config, func(settings map[string]any) error {
		if settings["version"] != int64(3) {
			return fmt.Errorf("its version is %v, want 3", settings["version"])
		}
		plugins := table(settings, "plugins")
		images := table(plugins, "io.containerd.cri.v1.images")
		// Only the transfer service asks verifiers; it does not look at these.
		images["use_local_image_pull"] = false
		images["disable_snapshot_annotations"] = true
		verifier := table(plugins, "io.containerd.image-verifier.v1.bindir")
		verifier["bin_dir"], verifier["max_verifiers"], verifier["per_verifier_timeout"] = folder, 10, "30s"
		if s := node.AgentConfig.Snapshotter; s != "" && s != "overlayfs" {
			table(plugins, "io.containerd.transfer.v1.local")["unpack_config"] = []map[string]any{{"platform": "linux", "snapshotter": s}}
		}
		return nil
	})
}

// adapt changes a generated containerd configuration.
func adapt(file string, change func(map[string]any) error) error {
	fail := func(err error) error { return fmt.Errorf("adapting containerd's configuration %s: %w", file, err) }
	raw, err := os.ReadFile(file)
	if err != nil {
		return fail(err)
	}
	settings := map[string]any{}
	if err := toml.Unmarshal(raw, &settings); err != nil {
		return fail(fmt.Errorf("%w (a template in that folder may be at fault)", err))
	}
	if err := change(settings); err != nil {
		return fail(err)
	}
	adapted, err := toml.Marshal(settings)
	if err != nil {
		return fail(err)
	}
	header := strings.TrimSuffix(templates.HostsTomlHeader, "\n")
	return durable.WriteFile(file, append([]byte(header+"\n"), adapted...), 0o600)
}
