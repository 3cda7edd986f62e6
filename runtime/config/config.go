// Package config holds what one node was told to be: the settings of this
// product, after command line, environment and configuration file were merged.
// The engine's own settings (addresses, tokens, etcd …) stay in the engine.
package config

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/airgap/trust"
	"github.com/rancher/rke2/charts"
	"github.com/rancher/rke2/images"
	"github.com/rancher/rke2/runtime/cis"
	"github.com/rancher/rke2/runtime/pod"
)

// Role says what a node runs.
type Role string

// The roles, named as their commands are.
const (
	Server Role = "server"
	Agent  Role = "agent"
)

// Roles of images, as images.ReleaseImage.Role names them.
const (
	RoleRuntime    = "runtime"
	RoleKubernetes = "kubernetes"
	RoleEtcd       = "etcd"
	RolePause      = "pause"
	RoleHelmJob    = "helm-job"
	// RoleCloudController is also the name of its component.
	RoleCloudController = "cloud-controller-manager"
)

// DefaultDataDir is a node's DataDir when neither an argument nor the configuration says
// otherwise.
const DefaultDataDir = "/var/lib/rancher/rke2"

// Config is one node's settings: complete, and right if Check has nothing to say.
type Config struct {
	Role                  Role
	DataDir               string // absolute
	Offline               bool
	Debug                 bool
	Charts                charts.Choice // of the packaged ones; servers have it
	Verification          trust.Mode
	TrustDir              string
	PrivateRegistry       string            // registries.yaml
	OnlyMirrors           bool              // a registry that has mirrors is not asked itself
	CredentialProviders   string            // the kubelet's CredentialProviderConfig
	CredentialProviderBin string            // the folder of its programs
	Join                  string            // URL of a server of the cluster; "" for its first
	NodeIPs               []string          // as given; none: that of the default route
	Snapshotter           string            // of containerd
	Without               []string          // control-plane components that this server is told not to run
	CloudController       bool              // servers run the release's cloud controller manager
	Cluster               Cluster           // what charts are told of it; servers have it
	SystemDefaultRegistry string            // host[:port] that stands in for the release's registry
	AirgapExtraRegistries []string          // imported images are tagged for these as well
	ImageOverrides        map[string]string // image role to reference, where the operator names another image
	ExtraEnv              map[string][]string
	ExtraMounts           map[string][]string
	Requests, Limits      map[string]pod.Resources // by component, over what this product asks for
	Probes                map[string]pod.Timings   // by component
	Profile               string                   // of package cis: "cis", "etcd" or ""
	SELinux               bool                     // containerd labels containers
	AuditPolicyFile       string                   // of the API server; "" for no audit log
	PodSecurityFile       string                   // of the API server's admission; "" for Kubernetes' own defaults
	Release               images.Release
}

// Check reports the first setting that cannot work, in the operator's words.
func (c Config) Check() error {
	if !filepath.IsAbs(c.DataDir) {
		return fmt.Errorf("data-dir %q must be an absolute path", c.DataDir)
	}
	switch c.Verification {
	case trust.ModeSystem, trust.ModeAll, trust.ModeOff:
	default:
		return fmt.Errorf("image-verification %q: must be one of system, all, off", c.Verification)
	}
	switch {
	case c.Profile == "" || c.Profile == cis.CIS || c.Profile == cis.Etcd:
	case strings.HasPrefix(c.Profile, "cis-"):
		return fmt.Errorf("profile %q: the benchmark's versions are not told apart any more: set `profile: cis`", c.Profile)
	default:
		return fmt.Errorf("profile %q: must be one of cis, etcd", c.Profile)
	}
	if err := c.checkCharts(); err != nil {
		return err
	}
	roles := []string{RoleRuntime, RoleKubernetes, RoleEtcd, RolePause}
	if slices.Contains(c.Components(), RoleCloudController) {
		roles = append(roles, RoleCloudController)
	}
	for _, role := range roles {
		if _, err := c.Image(role); err != nil {
			return err
		}
	}
	return nil
}

// ImagesDir is the folder that operators drop bundles into.
func (c Config) ImagesDir() string { return filepath.Join(c.DataDir, "agent", "images") }

// PodManifestsDir is the kubelet's static pod folder.
func (c Config) PodManifestsDir() string { return filepath.Join(c.DataDir, "agent", "pod-manifests") }

// Image is the reference this node uses for an image role: the operator's
// override, which may be by digest, else the release's, moved to
// system-default-registry if one is set.
func (c Config) Image(role string) (name.Reference, error) {
	if ref := c.ImageOverrides[role]; ref != "" {
		parsed, err := airgap.ParseReference(ref)
		if err != nil {
			return nil, fmt.Errorf("%s-image: %w", role, err)
		}
		return parsed, nil
	}
	image, ok := c.Release.Image(role)
	if !ok {
		return nil, fmt.Errorf("this rke2 was built without a release (no %s image is named in it): build it with `make airgap`, or name the image with --%s-image", role, role)
	}
	tag, err := airgap.ParseTag(image.Reference)
	if err != nil {
		return nil, fmt.Errorf("%s image of the release: %w", role, err)
	}
	if c.SystemDefaultRegistry == "" {
		return tag, nil
	}
	moved, err := Move(tag, c.SystemDefaultRegistry)
	if err != nil {
		return nil, err
	}
	return moved, nil
}

// Components are those of the control plane that this node runs, in the order in which
// they start. The cloud controller manager runs where the controllers of the cluster do.
func (c Config) Components() []string {
	if c.Role != Server {
		return nil
	}
	all := []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"}
	if c.CloudController && !slices.Contains(c.Without, "kube-controller-manager") {
		all = append(all, RoleCloudController)
	}
	return slices.DeleteFunc(all, func(name string) bool { return slices.Contains(c.Without, name) })
}

// ComponentRole is the role of the image that a control-plane component is made of, by
// the component's name: its own, where the operator names an image for just that one.
func (c Config) ComponentRole(component string) string {
	switch {
	case c.ImageOverrides[component] != "", component == RoleEtcd, component == RoleCloudController:
		return component
	default:
		return RoleKubernetes
	}
}

// ComponentImage is the reference of a control-plane component's image, by its name.
func (c Config) ComponentImage(component string) (name.Reference, error) {
	return c.Image(c.ComponentRole(component))
}

// Move is the same repository path and tag in another registry.
func Move(tag name.Tag, registry string) (name.Tag, error) {
	moved, err := airgap.ParseTag(strings.TrimSuffix(registry, "/") + "/" + tag.RepositoryStr() + ":" + tag.TagStr())
	if err != nil {
		return name.Tag{}, fmt.Errorf("system-default-registry %q: %w", registry, err)
	}
	return moved, nil
}

// Candidates are the references under which a bundle may carry the image of a
// role: the release's own name first, then the one in system-default-registry.
func (c Config) Candidates(role string) ([]name.Reference, error) {
	wanted, err := c.Image(role)
	if err != nil {
		return nil, err
	}
	if c.ImageOverrides[role] != "" || c.SystemDefaultRegistry == "" {
		return []name.Reference{wanted}, nil
	}
	plain := c
	plain.SystemDefaultRegistry = ""
	first, err := plain.Image(role)
	if err != nil {
		return nil, err
	}
	return slices.Compact([]name.Reference{first, wanted}), nil
}
