package engine

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	agentcontainerd "github.com/k3s-io/k3s/pkg/agent/containerd"
	"github.com/k3s-io/k3s/pkg/agent/templates"
	daemonconfig "github.com/k3s-io/k3s/pkg/daemons/config"
	"github.com/k3s-io/k3s/pkg/spegel"
	"github.com/pelletier/go-toml/v2"
	"github.com/rancher/wharfie/pkg/registries"

	"github.com/rancher/rke2/airgap/trust"
	"github.com/rancher/rke2/runtime/durable"
)

// sharer is content whose images other nodes can have.
type sharer interface {
	// AskPeers is told that images which no bundle has may come from other nodes.
	AskPeers()
	// Registries are those that the images are named after.
	Registries() []string
}

// peersEndpoint is where the embedded registry listens on each node.
func peersEndpoint() string {
	return "https://" + net.JoinHostPort(spegel.DefaultRegistry.InternalAddress, spegel.DefaultRegistry.RegistryPort) + "/v2"
}

// anyRegistry stands for every registry in a configuration of mirrors.
const anyRegistry = "*"

// sharesImages sets the embedded registry up, with which nodes have images from each
// other. Offline means no registry, so that nobody else is asked then.
//
// The engine's embedded registry takes the name for every registry for one registry's,
// and then offers nothing to anybody. So it gets to know the registries that the bundles'
// images are named after; containerd gets to know about every registry, later (allMirrors).
func (e *Executor) sharesImages(node *daemonconfig.Node) {
	registry := node.AgentConfig.Registry
	if registry.Mirrors == nil {
		registry.Mirrors = map[string]registries.Mirror{}
	}
	shared, _ := e.content.(sharer)
	if e.config.Offline {
		peers := peersEndpoint()
		for host, mirror := range registry.Mirrors {
			mirror.Endpoints, mirror.Rewrites = []string{peers}, nil
			registry.Mirrors[host] = mirror
		}
		if _, ok := registry.Mirrors[anyRegistry]; !ok {
			registry.Mirrors[anyRegistry] = registries.Mirror{Endpoints: []string{peers}}
		}
		node.Containerd.NoDefault = true
		if shared != nil {
			shared.AskPeers()
		}
		e.log.Info("images that no bundle here has are asked of the other nodes, and of nobody else", "registry", peers)
	}
	every, ok := registry.Mirrors[anyRegistry]
	if !ok || shared == nil {
		return
	}
	e.everyMirror = &every
	delete(registry.Mirrors, anyRegistry)
	for _, host := range shared.Registries() {
		if _, own := registry.Mirrors[host]; !own {
			registry.Mirrors[host] = every
		}
	}
}

// allMirrors gives containerd its mirrors when the embedded registry has taken note of
// its own: also those of every registry that has none of its own, and no way around them
// where there is to be none.
func (e *Executor) allMirrors(node *daemonconfig.Node) error {
	if e.everyMirror != nil {
		node.AgentConfig.Registry.Mirrors[anyRegistry] = *e.everyMirror
		if err := agentcontainerd.SetupContainerdConfig(node); err != nil {
			return fmt.Errorf("configuring containerd's mirrors: %w", err)
		}
	}
	if !node.Containerd.NoDefault {
		return nil
	}
	files, err := filepath.Glob(filepath.Join(node.Containerd.Registry, "*", "hosts.toml"))
	if err != nil {
		return err
	}
	for _, file := range files {
		if err := withoutDefault(file); err != nil {
			return fmt.Errorf("configuring containerd's mirrors: %w", err)
		}
	}
	return nil
}

// nowhere is a server that is never asked to pull from. It stands where containerd would
// take the registry itself for the last of the mirrors.
const nowhere = "server = \"https://offline.invalid\"\ncapabilities = [\"push\"]\n"

// withoutDefault makes a registry's mirrors, in a file that the engine has generated, all
// that is asked. An operator's own file stays as it is.
func withoutDefault(file string) error {
	raw, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	rest, generated := strings.CutPrefix(string(raw), templates.HostsTomlHeader)
	if !generated || strings.HasPrefix(strings.TrimSpace(rest), "server") {
		return nil
	}
	return durable.WriteFile(file, []byte(templates.HostsTomlHeader+nowhere+rest), 0o600)
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
