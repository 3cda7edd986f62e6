package engine

import (
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/k3s-io/k3s/pkg/cli/cmds"
	"github.com/k3s-io/k3s/pkg/configfilearg"
	"github.com/k3s-io/k3s/pkg/version"
	"github.com/sirupsen/logrus"
	"github.com/urfave/cli/v2"

	"github.com/rancher/rke2/airgap/trust"
	"github.com/rancher/rke2/images"
	"github.com/rancher/rke2/runtime/config"
)

// Invocation is one parsed command line of `rke2 server` or `rke2 agent`.
type Invocation struct {
	Config config.Config
	cli    *cli.Context
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
	merged, err := configParser(role, flags).Parse(append([]string{"rke2", string(role)}, args...))
	if err != nil {
		return nil, fmt.Errorf("reading the configuration file: %w", err)
	}
	// The engine knows this one only as an item of --disable.
	merged = append(merged, "--disable=servicelb")
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
	inv := &Invocation{cli: parsed}
	inv.Config, err = settings(role, own, release)
	if err != nil {
		return nil, err
	}
	engineDefaults(inv.Config)
	return inv, nil
}

func configParser(role config.Role, flags []cli.Flag) *configfilearg.Parser {
	return &configfilearg.Parser{
		After:         []string{string(role)},
		ConfigFlags:   []string{"--config", "-c"},
		EnvName:       "RKE2_CONFIG_FILE",
		DefaultConfig: "/etc/rancher/rke2/config.yaml",
		ValidFlags:    map[string][]cli.Flag{string(role): flags},
	}
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
		dataDir = "/var/lib/rancher/rke2"
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
		CNI:                   own.cni,
		Verification:          trust.Mode(own.verification),
		TrustDir:              own.trustDir,
		PrivateRegistry:       cmds.AgentConfig.PrivateRegistry,
		CredentialProviders:   cmds.AgentConfig.ImageCredProvConfig,
		CredentialProviderBin: cmds.AgentConfig.ImageCredProvBinDir,
		Join:                  join,
		NodeIPs:               cmds.AgentConfig.NodeIP.Value(),
		Snapshotter:           cmds.AgentConfig.Snapshotter,
		SystemDefaultRegistry: registry,
		AirgapExtraRegistries: cmds.AgentConfig.AirgapExtraRegistry.Value(),
		ImageOverrides:        map[string]string{},
		ExtraEnv:              map[string][]string{},
		ExtraMounts:           map[string][]string{},
		Release:               release,
	}
	for component, off := range map[string]bool{
		"etcd":                    cmds.ServerConfig.DisableETCD || cmds.ServerConfig.DatastoreEndpoint != "",
		"kube-apiserver":          cmds.ServerConfig.DisableAPIServer,
		"kube-controller-manager": cmds.ServerConfig.DisableControllerManager,
		"kube-scheduler":          cmds.ServerConfig.DisableScheduler,
	} {
		if off && role == config.Server {
			c.Without = append(c.Without, component)
		}
	}
	slices.Sort(c.Without)
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
	return c, c.Check()
}

// engineDefaults sets the engine's globals to what this product is: etcd as
// the datastore, no embedded network, its ports, and no component that is in
// no image of the release (cloud controller, service load balancer, kube-proxy).
func engineDefaults(c config.Config) {
	s, a := &cmds.ServerConfig, &cmds.AgentConfig
	s.ClusterInit = true
	s.DisableNPC = true
	s.DisableCCM = true
	s.DisableKubeProxy = true
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
