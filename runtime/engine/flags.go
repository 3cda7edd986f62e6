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
	Values    []string // what may be given, where that is an enumeration
	Folder    bool     // the value is a folder's path
}

// own are the values of this product's options.
type own struct {
	offline      bool
	verification string
	trustDir     string
	cni          cli.StringSlice
	ingress      cli.StringSlice
	disable      cli.StringSlice
	images       map[string]*string
	registry     string // agents have no system-default-registry in K3s
	extraEnv     map[string]*cli.StringSlice
	extraMounts  map[string]*cli.StringSlice

	profile, auditPolicy, podSecurity string
	requests, limits, probes          cli.StringSlice
	cloudProvider                     string
	logFormat                         string
}

// imageRoles maps an option's stem to the role of the image that it overrides.
var imageRoles = []struct{ option, role, what string }{
	{"runtime", config.RoleRuntime, "the node's executables"},
	{"kube-apiserver", "kube-apiserver", "kube-apiserver"},
	{"kube-controller-manager", "kube-controller-manager", "kube-controller-manager"},
	{"kube-scheduler", "kube-scheduler", "kube-scheduler"},
	{"etcd", config.RoleEtcd, "etcd"},
	{"cloud-controller-manager", config.RoleCloudController, "cloud-controller-manager"},
}

// components are those that run as static pods.
var components = []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler", "etcd", config.RoleCloudController}

// ownCloud is the cloud provider that the release brings.
const ownCloud = "rke2"

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
	}
	list = append(list,
		&cli.StringFlag{
			Name: "profile", EnvVars: []string{"RKE2_CIS_PROFILE"}, Destination: &o.profile,
			Usage: "(security) Harden the node and check that the host is prepared: 'cis' (the CIS benchmark) or 'etcd' (only run etcd as the user etcd)",
		},
		&cli.StringFlag{
			Name: "cloud-provider-name", EnvVars: []string{"RKE2_CLOUD_PROVIDER_NAME"}, Destination: &o.cloudProvider, Value: "none",
			Usage: "(agent/node) Cloud provider: 'none'; 'rke2' runs the release's cloud controller manager on servers, which gives every node of the cluster its node-external-ip and -dns; 'external' if you deploy another: nodes then wait for it",
		},
		&cli.StringFlag{
			Name: "log-format", EnvVars: []string{"RKE2_LOG_FORMAT"}, Destination: &o.logFormat, Value: "text",
			Usage: "(logging) Format of the node's own log: 'text' or 'json'",
		})
	if role == config.Server {
		list = append(list, o.chartFlags()...)
		list = append(list, o.serverFlags()...)
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

// chartFlags choose among the packaged charts.
func (o *own) chartFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{
			Name: "cni", EnvVars: []string{"RKE2_CNI"}, Destination: &o.cni, Value: cli.NewStringSlice("canal"),
			Usage: "(networking) Network to deploy: 'canal' (flannel's VXLAN with Calico's network policies), 'flannel', or 'none', which leaves /opt/cni/bin and /etc/cni/net.d to you",
		},
		&cli.StringSliceFlag{
			Name: "ingress-controller", EnvVars: []string{"RKE2_INGRESS_CONTROLLER"}, Destination: &o.ingress, Value: cli.NewStringSlice("ingress-nginx"),
			Usage: "(networking) Ingress controllers to deploy: 'ingress-nginx' or 'none'; the class of the first is the cluster's default",
		},
		&cli.StringSliceFlag{
			Name: "disable", EnvVars: []string{"RKE2_DISABLE"}, Destination: &o.disable,
			Usage: "(components) Packaged charts that are not deployed, and are uninstalled where they were: 'rke2-coredns', 'rke2-metrics-server' and so on",
		},
	}
}

// serverFlags are those about the control plane's pods.
func (o *own) serverFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{
			Name: "audit-policy-file", EnvVars: []string{"RKE2_AUDIT_POLICY_FILE"}, Destination: &o.auditPolicy,
			Usage: "(security) Audit policy of kube-apiserver, which then writes <data-dir>/server/logs/audit.log",
		},
		&cli.StringFlag{
			Name: "pod-security-admission-config-file", EnvVars: []string{"RKE2_POD_SECURITY_ADMISSION_CONFIG_FILE"}, Destination: &o.podSecurity,
			Usage: "(security) AdmissionConfiguration with the Pod Security Standards that namespaces are held to",
		},
		&cli.StringSliceFlag{
			Name: "control-plane-resource-requests", EnvVars: []string{"RKE2_CONTROL_PLANE_RESOURCE_REQUESTS"}, Destination: &o.requests,
			Usage: "(components) Resources set aside for the control plane's pods: COMPONENT-cpu=QUANTITY or COMPONENT-memory=QUANTITY",
		},
		&cli.StringSliceFlag{
			Name: "control-plane-resource-limits", EnvVars: []string{"RKE2_CONTROL_PLANE_RESOURCE_LIMITS"}, Destination: &o.limits,
			Usage: "(components) Resources that the control plane's pods may use at most, in the same form",
		},
		&cli.StringSliceFlag{
			Name: "control-plane-probe-configuration", EnvVars: []string{"RKE2_CONTROL_PLANE_PROBE_CONFIGURATION"}, Destination: &o.probes,
			Usage: "(components) Timing of the control plane's probes: COMPONENT-startup-failure-threshold=NUMBER and the like (startup, liveness, readiness; initial-delay-seconds, period-seconds, timeout-seconds, failure-threshold)",
		},
	}
}

// values are the options that take one of a few words, for completion and errors.
var values = map[string][]string{
	"image-verification":          {"system", "all", "off"},
	"profile":                     {"cis", "etcd"},
	"cloud-provider-name":         {"none", ownCloud, "external"},
	"cni":                         {"canal", "flannel", "none"},
	"ingress-controller":          {"ingress-nginx", "none"},
	"log-format":                  {"text", "json"},
	"egress-selector-mode":        {"agent", "cluster", "pod", "disabled"},
	"secrets-encryption-provider": {"aescbc", "secretbox"},
	"snapshotter":                 {"overlayfs", "native", "fuse-overlayfs", "stargz"},
	"etcd-s3-bucket-lookup-type":  {"auto", "dns", "path"},
}

// retold are the engine's options that this product says in its own words: the engine
// looks them up by name.
var retold = []string{"disable"}

// folders are the options whose value is a folder.
var folders = []string{"data-dir", "trust-dir", "etcd-snapshot-dir", "image-credential-provider-bin-dir"}

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
		_, gone := former[f.Names()[0]]
		if !gone && !slices.Contains(retold, f.Names()[0]) {
			list = append(list, f)
		}
	}
	return append(list, o.flags(role)...)
}

// Flags lists the options of a role: K3s's that apply here, then ours, then, hidden,
// those that Parse refuses with a word on what replaced them.
func Flags(role config.Role) []Flag {
	var out []Flag
	for _, f := range newOwn().roleFlags(role) {
		d := Flag{Name: f.Names()[0]}
		d.Values, d.Folder = values[d.Name], slices.Contains(folders, d.Name)
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
			if !slices.Contains([]string{"cni", "ingress-controller"}, d.Name) {
				d.Default = "" // it says how the engine spells an empty list
			}
		}
		out = append(out, d)
	}
	return append(out, formerFlags(role)...)
}
