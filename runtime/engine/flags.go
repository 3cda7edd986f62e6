package engine

import (
	"slices"
	"strings"

	"github.com/k3s-io/k3s/pkg/cli/cmds"
	"github.com/urfave/cli/v2"

	"github.com/rancher/rke2/runtime/config"
)

// Flag describes one option of a role, for whoever builds the command line.
type Flag struct {
	Name      string
	Shorthand string // one letter, or empty
	Usage     string
	Env       []string
	Default   string
	Bool      bool // takes no value
	Multi     bool // may be repeated
	Hidden    bool
}

// dropped are K3s's options that have no meaning in this product: its embedded
// network, its other runtimes, and the ports that are part of the contract.
var dropped = []string{
	"advertise-port", "apiserver-bind-address", "apiserver-port", "container-runtime-endpoint",
	"default-local-storage-path", "disable-agent", "disable-cloud-controller", "disable-kube-proxy",
	"disable-network-policy", "docker", "flannel-backend", "flannel-cni-conf", "flannel-conf",
	"flannel-external-ip", "flannel-iface", "flannel-ipv6-masq", "https-listen-port",
	"image-service-endpoint", "kine-tls", "kube-cloud-controller-arg", "kube-cloud-controller-manager-arg",
	"kube-controller-arg", "kube-proxy-arg", "prefer-bundled-bin", "rootless", "servicelb-namespace",
	"supervisor-port", "vpn-auth", "vpn-auth-file",
}

// own are the values of this product's options.
type own struct {
	offline      bool
	verification string
	trustDir     string
	cni          string
	images       map[string]*string
	registry     string // agents have no system-default-registry in K3s
	extraEnv     map[string]*cli.StringSlice
	extraMounts  map[string]*cli.StringSlice
}

// imageRoles maps an option's stem to the role of the image that it overrides.
var imageRoles = []struct{ option, role, what string }{
	{"runtime", config.RoleRuntime, "the node's executables"},
	{"kube-apiserver", "kube-apiserver", "kube-apiserver"},
	{"kube-controller-manager", "kube-controller-manager", "kube-controller-manager"},
	{"kube-scheduler", "kube-scheduler", "kube-scheduler"},
	{"etcd", config.RoleEtcd, "etcd"},
}

// components are those that run as static pods.
var components = []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler", "etcd"}

func newOwn() *own {
	o := &own{
		images:      map[string]*string{},
		extraEnv:    map[string]*cli.StringSlice{},
		extraMounts: map[string]*cli.StringSlice{},
	}
	for _, r := range imageRoles {
		o.images[r.role] = new(string)
	}
	for _, c := range components {
		o.extraEnv[c] = &cli.StringSlice{}
		o.extraMounts[c] = &cli.StringSlice{}
	}
	return o
}

// flags are the options that this product adds to K3s's.
func (o *own) flags(role config.Role) []cli.Flag {
	list := []cli.Flag{
		&cli.BoolFlag{
			Name: "offline", EnvVars: []string{"RKE2_OFFLINE"}, Destination: &o.offline,
			Usage: "(airgap) Never dial a registry, neither for the node nor for a pod: an image that no bundle in <data-dir>/agent/images has is an error at once",
		},
		&cli.StringFlag{
			Name: "image-verification", EnvVars: []string{"RKE2_IMAGE_VERIFICATION"}, Destination: &o.verification, Value: "system",
			Usage: "(airgap) Which images must carry a trusted signature: 'system' (runtime, control plane and packaged charts), 'all', or 'off'",
		},
		&cli.StringFlag{
			Name: "trust-dir", EnvVars: []string{"RKE2_TRUST_DIR"}, Destination: &o.trustDir, Value: "/etc/rancher/rke2/trust",
			Usage: "(airgap) Folder of additional public keys (*.pub) whose signatures are trusted",
		},
		&cli.StringFlag{
			Name: "cni", EnvVars: []string{"RKE2_CNI"}, Destination: &o.cni, Value: "none",
			Usage: "(networking) Network plugin to deploy; this release packages none: 'none' leaves /opt/cni/bin and /etc/cni/net.d to you",
		},
	}
	if role == config.Agent {
		list = append(list, &cli.StringFlag{
			Name: "system-default-registry", EnvVars: []string{"RKE2_SYSTEM_DEFAULT_REGISTRY"}, Destination: &o.registry,
			Usage: "(agent/runtime) Private registry to be used for all system images",
		})
	}
	for _, r := range imageRoles {
		if role == config.Agent && r.role != config.RoleRuntime {
			continue
		}
		list = append(list, &cli.StringFlag{
			Name: r.option + "-image", EnvVars: []string{envName(r.option + "-image")}, Destination: o.images[r.role],
			Usage: "(image) Use this image for " + r.what + " instead of the release's",
		})
	}
	if role == config.Server {
		for _, c := range components {
			list = append(list,
				&cli.StringSliceFlag{
					Name: c + "-extra-env", EnvVars: []string{envName(c + "-extra-env")}, Destination: o.extraEnv[c],
					Usage: "(components) Environment variable NAME=VALUE for " + c,
				},
				&cli.StringSliceFlag{
					Name: c + "-extra-mount", EnvVars: []string{envName(c + "-extra-mount")}, Destination: o.extraMounts[c],
					Usage: "(components) Mount HOST-PATH:CONTAINER-PATH[:ro|rw] for " + c,
				})
		}
	}
	return list
}

func envName(option string) string {
	return "RKE2_" + strings.ToUpper(strings.ReplaceAll(option, "-", "_"))
}

// roleFlags are all options of a role in the engine's flag library.
func (o *own) roleFlags(role config.Role) []cli.Flag {
	theirs := cmds.ServerFlags
	if role == config.Agent {
		theirs = cmds.NewAgentCommand(nil).Flags
	}
	var list []cli.Flag
	for _, f := range theirs {
		if !slices.Contains(dropped, f.Names()[0]) {
			list = append(list, f)
		}
	}
	return append(list, o.flags(role)...)
}

// Flags lists the options of a role: K3s's that apply here, then ours.
func Flags(role config.Role) []Flag {
	var out []Flag
	for _, f := range newOwn().roleFlags(role) {
		d := Flag{Name: f.Names()[0]}
		for _, alias := range f.Names() {
			if len(alias) == 1 {
				d.Shorthand = alias
			}
		}
		if v, ok := f.(cli.VisibleFlag); ok {
			d.Hidden = !v.IsVisible()
		}
		if doc, ok := f.(cli.DocGenerationFlag); ok {
			d.Usage = doc.GetUsage()
			d.Env = doc.GetEnvVars()
			d.Default = strings.Trim(doc.GetDefaultText(), `"`)
			if d.Default == "" {
				d.Default = strings.Trim(doc.GetValue(), `"`)
			}
			if d.Name == "pause-image" {
				d.Default = "" // the release's; what the engine would take is not in it
			}
		}
		switch f.(type) {
		case *cli.BoolFlag:
			d.Bool = true
			if d.Default == "false" {
				d.Default = ""
			}
		case *cli.StringSliceFlag:
			d.Multi = true
			d.Default = ""
		}
		out = append(out, d)
	}
	return out
}
