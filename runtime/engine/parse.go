package engine

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/k3s-io/k3s/pkg/cli/cmds"
	"github.com/k3s-io/k3s/pkg/version"
	"github.com/sirupsen/logrus"
	"github.com/urfave/cli/v2"
	"k8s.io/klog/v2"

	"github.com/rancher/rke2/airgap/trust"
	"github.com/rancher/rke2/charts"
	"github.com/rancher/rke2/images"
	"github.com/rancher/rke2/runtime/cis"
	"github.com/rancher/rke2/runtime/config"
	"github.com/rancher/rke2/runtime/pod"
)

// Invocation is one parsed command line of `rke2 server` or `rke2 agent`.
type Invocation struct {
	Config config.Config
	// Warnings are what the log should say of the configuration.
	Warnings []string
	cli      *cli.Context
}

// Ports and addresses that are part of the contract with operators.
const (
	apiPort        = 6443
	supervisorPort = 9345
)

// Parse merges the options of a role from its arguments, its configuration
// file (config.yaml, and config.yaml.d/*.yaml beside it) and RKE2_* variables.
// An argument wins over the file, the file over a variable. It may be called
// once in a process: the engine keeps its settings in globals.
func Parse(role config.Role, args []string, release images.Release) (*Invocation, error) {
	if version.Program != "rke2" {
		return nil, fmt.Errorf("this binary was built without -ldflags=-X=github.com/k3s-io/k3s/pkg/version.Program=rke2 (it would be %q to its cluster): build it with make", version.Program)
	}
	// The engine insists that its maker named the toolchain; ours is declared
	// in go.mod and asserted at build time.
	version.UpstreamGolang, _, _ = strings.Cut(runtime.Version(), " ")
	version.Version = release.Version

	own := newOwn()
	flags := own.roleFlags(role)
	merged, warnings, err := merge(role, flags, args)
	if err != nil {
		return nil, err
	}
	if role == config.Server {
		// The engine knows this one only as an item of --disable.
		merged = append(merged, "--disable=servicelb")
	}
	var parsed *cli.Context
	app := cli.NewApp()
	app.Name = "rke2"
	app.Version = release.Version
	app.DisableSliceFlagSeparator = true
	app.HideHelp = true
	app.ExitErrHandler = func(*cli.Context, error) {}
	app.Commands = []*cli.Command{{
		Name: string(role), Flags: flags, HideHelp: true,
		OnUsageError: func(_ *cli.Context, err error, _ bool) error { return err },
		Action: func(c *cli.Context) error {
			if c.NArg() > 0 {
				return fmt.Errorf("unexpected argument %q", c.Args().First())
			}
			parsed = c
			return nil
		},
	}}
	if err := app.Run(merged); err != nil {
		return nil, err
	}
	if role == config.Server {
		cmds.ServerConfig.ExtraEtcdArgs = *cli.NewStringSlice(append(slices.Clone(temporaryEtcd), cmds.ServerConfig.ExtraEtcdArgs.Value()...)...)
	}
	inv := &Invocation{cli: parsed, Warnings: warnings}
	inv.Config, err = settings(role, own, release)
	if err != nil {
		return nil, err
	}
	engineDefaults(inv.Config)
	own.engineSettings()
	return inv, nil
}

// merge puts the configuration file before the arguments, so that these win, and
// judges options that this product does not follow.
func merge(role config.Role, flags []cli.Flag, args []string) (merged, warnings []string, err error) {
	words := newVocabulary(flags)
	for _, other := range []config.Role{config.Server, config.Agent} {
		if other != role {
			words.elsewhere = newVocabulary(newOwn().roleFlags(other)).options
		}
	}
	path, named := configFile(args)
	fromFile, warnings, err := readConfig(path, named, words)
	if err != nil {
		return nil, nil, fmt.Errorf("reading the configuration file: %w", err)
	}
	merged = append([]string{"rke2", string(role)}, fromFile...)
	for _, arg := range args {
		name, value, _ := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		o, is := former[name]
		_, known := words.options[name]
		switch {
		case !is && !known && strings.HasPrefix(arg, "-"):
			return nil, nil, Unknown(role, name)
		case !is:
			merged = append(merged, arg)
			continue
		}
		warning, err := o.check(name, value)
		if err != nil {
			return nil, nil, fmt.Errorf("--%w", err)
		}
		if warning != "" {
			warnings = append(warnings, "--"+warning)
		}
	}
	more, err := words.environment(os.Environ())
	return merged, append(warnings, more...), err
}

// Unknown is the error for an option of the command line that there is not.
func Unknown(role config.Role, name string) error {
	options := newVocabulary(newOwn().roleFlags(role)).options
	if meant := nearest(name, slices.Sorted(maps.Keys(options))); meant != "" {
		return fmt.Errorf("unknown option --%s: did you mean --%s?", name, meant)
	}
	return fmt.Errorf("unknown option --%s: `rke2 %s --help` lists them", name, role)
}

func newVocabulary(flags []cli.Flag) vocabulary {
	words := vocabulary{options: map[string]bool{}, lists: map[string]bool{}, variables: map[string]bool{}}
	for _, f := range flags {
		for _, name := range f.Names() {
			_, words.options[name] = f.(*cli.BoolFlag)
			_, words.lists[name] = f.(*cli.StringSliceFlag)
		}
		if doc, ok := f.(cli.DocGenerationFlag); ok {
			for _, variable := range doc.GetEnvVars() {
				words.variables[variable] = true
			}
		}
	}
	return words
}

// settings are this product's own view of the parsed options.
func settings(role config.Role, own *own, release images.Release) (config.Config, error) {
	dataDir, join := cmds.AgentConfig.DataDir, cmds.AgentConfig.ServerURL
	registry := own.registry
	if role == config.Server {
		dataDir, join = cmds.ServerConfig.DataDir, cmds.ServerConfig.ServerURL
		registry = cmds.ServerConfig.SystemDefaultRegistry
	}
	if dataDir == "" {
		dataDir = config.DefaultDataDir
	}
	dataDir, err := filepath.Abs(dataDir)
	if err != nil {
		return config.Config{}, err
	}
	c := config.Config{
		Role:                  role,
		DataDir:               dataDir,
		Offline:               own.offline,
		Debug:                 cmds.Debug,
		Verification:          trust.Mode(own.verification),
		TrustDir:              own.trustDir,
		PrivateRegistry:       cmds.AgentConfig.PrivateRegistry,
		OnlyMirrors:           cmds.AgentConfig.ContainerdNoDefault,
		CredentialProviders:   cmds.AgentConfig.ImageCredProvConfig,
		CredentialProviderBin: cmds.AgentConfig.ImageCredProvBinDir,
		Join:                  join,
		NodeIPs:               commaList(cmds.AgentConfig.NodeIP.Value()),
		Snapshotter:           cmds.AgentConfig.Snapshotter,
		SystemDefaultRegistry: registry,
		AirgapExtraRegistries: cmds.AgentConfig.AirgapExtraRegistry.Value(),
		Profile:               own.profile,
		SELinux:               cmds.AgentConfig.EnableSELinux,
		AuditPolicyFile:       own.auditPolicy,
		PodSecurityFile:       own.podSecurity,
		ImageOverrides:        map[string]string{},
		ExtraEnv:              map[string][]string{},
		ExtraMounts:           map[string][]string{},
		Release:               release,
	}
	if role == config.Server {
		c.Without = without()
		c.CloudController = own.cloudProvider == ownCloud
		c.Charts = own.choice()
		c.Cluster = clusterOf(c.NodeIPs)
		if len(c.Charts.IngressController) > 0 && c.Charts.IngressController[0] != "none" {
			c.Cluster.IngressClass = c.Charts.IngressController[0]
		}
	}
	for role, ref := range own.images {
		if *ref != "" {
			c.ImageOverrides[role] = *ref
		}
	}
	if ref := cmds.AgentConfig.PauseImage; ref != "" && ref != cmds.PauseImageFlag.Value {
		c.ImageOverrides[config.RolePause] = ref
	}
	for _, name := range components {
		c.ExtraEnv[name] = own.extraEnv[name].Value()
		c.ExtraMounts[name] = own.extraMounts[name].Value()
	}
	if err := own.tune(&c); err != nil {
		return c, err
	}
	return c, c.Check()
}

// without are the components of the control plane that this server does not run, in order.
func without() []string {
	var out []string
	for component, off := range map[string]bool{
		"etcd":                    cmds.ServerConfig.DisableETCD || cmds.ServerConfig.DatastoreEndpoint != "",
		"kube-apiserver":          cmds.ServerConfig.DisableAPIServer,
		"kube-controller-manager": cmds.ServerConfig.DisableControllerManager,
		"kube-scheduler":          cmds.ServerConfig.DisableScheduler,
	} {
		if off {
			out = append(out, component)
		}
	}
	slices.Sort(out)
	return out
}

// choice is what was said of the packaged charts. servicelb is the engine's own word.
func (o *own) choice() charts.Choice {
	return charts.Choice{
		CNI: commaList(o.cni.Value()), IngressController: commaList(o.ingress.Value()),
		Disable:     slices.DeleteFunc(commaList(o.disable.Value()), func(name string) bool { return name == "servicelb" }),
		NoKubeProxy: cmds.ServerConfig.DisableKubeProxy,
	}
}

// tune takes the options apart that hold several values.
func (o *own) tune(c *config.Config) (err error) {
	if c.Profile == cis.CIS && c.Role == config.Server {
		c.AuditPolicyFile = cmp.Or(c.AuditPolicyFile, cis.AuditPolicyFile)
		c.PodSecurityFile = cmp.Or(c.PodSecurityFile, cis.PodSecurityFile)
	}
	if c.Requests, err = pod.ParseResources("control-plane-resource-requests", o.requests.Value()); err != nil {
		return err
	}
	if c.Limits, err = pod.ParseResources("control-plane-resource-limits", o.limits.Value()); err != nil {
		return err
	}
	if c.Probes, err = pod.ParseTimings("control-plane-probe-configuration", o.probes.Value()); err != nil {
		return err
	}
	for _, option := range []struct{ name, value string }{
		{"cloud-provider-name", o.cloudProvider}, {"log-format", o.logFormat},
	} {
		if !slices.Contains(values[option.name], option.value) {
			return fmt.Errorf("%s %q: must be one of %s", option.name, option.value, strings.Join(values[option.name], ", "))
		}
	}
	return nil
}

// engineDefaults sets the engine's globals to what this product is: etcd as
// the datastore, no embedded network, its ports, a cloud controller manager only where
// it is asked for, and no service load balancer, which is in no image of the release.
func engineDefaults(c config.Config) {
	s, a := &cmds.ServerConfig, &cmds.AgentConfig
	s.ClusterInit = true
	s.DisableNPC = true
	s.DisableCCM = !c.CloudController
	s.FlannelBackend = "none"
	s.AdvertisePort = apiPort
	s.SupervisorPort = supervisorPort
	s.HTTPSPort = apiPort
	s.APIServerPort = apiPort
	s.APIServerBindAddress = "0.0.0.0"
	s.ServiceLBNamespace = "kube-system"
	s.DataDir = c.DataDir
	a.DataDir = c.DataDir
	a.DisableServiceLB = true
	a.PauseImage = ""
	// The engine's own default is an image that no bundle has.
	if s.HelmJobImage == "" {
		if ref, err := c.Image(config.RoleHelmJob); err == nil {
			s.HelmJobImage = ref.String()
		}
	}
	if c.Debug {
		logrus.SetLevel(logrus.DebugLevel)
	}
	harden(c)
}

// commaList is the items of a list, some of which may hold several, joined by commas.
func commaList(list []string) []string {
	return strings.FieldsFunc(strings.Join(list, ","), func(r rune) bool { return r == ',' || r == ' ' })
}

// engineSettings hands the engine what it has no option for.
func (o *own) engineSettings() {
	a := &cmds.AgentConfig
	a.ExtraKubeletArgs = *cli.NewStringSlice(o.kubeletArgs(a.ExtraKubeletArgs.Value(), a.NodeIP.Value())...)
	if o.logFormat == "json" {
		logrus.SetFormatter(&logrus.JSONFormatter{})
		klog.SetSlogLogger(Logger()) // Kubernetes' libraries
	}
}

// kubeletArgs are the operator's, after what the engine leaves out where it runs no
// cloud controller manager: several addresses of a node, and that somebody else runs one.
func (o *own) kubeletArgs(theirs []string, addresses []string) []string {
	var ours []string
	if ips := commaList(addresses); len(ips) > 1 {
		ours = append(ours, "node-ip="+strings.Join(ips, ","))
	}
	if o.cloudProvider == "external" {
		ours = append(ours, "cloud-provider=external")
	}
	return slices.Concat(slices.DeleteFunc(ours, func(arg string) bool {
		name, _, _ := strings.Cut(arg, "=")
		return slices.ContainsFunc(theirs, func(t string) bool { return strings.HasPrefix(strings.TrimPrefix(t, "--"), name+"=") })
	}), theirs)
}

// InitLogging applies --log and, as PID 1, reaping: both start this program
// again as a child and do not return in the parent.
func InitLogging() error {
	if err := cmds.InitLogging(); err != nil {
		return fmt.Errorf("setting up the log: %w", err)
	}
	return nil
}

// Version is what the engine calls itself, from the module it was built from.
func Version() string {
	return moduleVersion("github.com/k3s-io/k3s")
}
