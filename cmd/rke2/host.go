package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/pflag"

	"github.com/rancher/rke2/images"
	"github.com/rancher/rke2/runtime/closure"
	"github.com/rancher/rke2/runtime/config"
	"github.com/rancher/rke2/runtime/engine"
)

// hostNode says which node of this host a command looks at: its options, for commands
// that do not start it.
type hostNode struct {
	config, dataDir string // as given; "" is what the node would take
}

func (h *hostNode) addFlags(flags *pflag.FlagSet) {
	flags.StringVar(&h.config, "config", "", "the node's configuration `file` (default "+defaultConfig+", or RKE2_CONFIG_FILE)")
	flags.StringVar(&h.dataDir, "data-dir", "", "the node's data `folder` (default that of the configuration, or /var/lib/rancher/rke2)")
}

// configFile is the node's, whether it is there or not.
func (h hostNode) configFile() string {
	if h.config != "" {
		return h.config
	}
	if file := os.Getenv("RKE2_CONFIG_FILE"); file != "" {
		return file
	}
	return defaultConfig
}

// settings reads them as the node's own command does. A configuration file that was named
// has to be there.
func (h hostNode) settings(role config.Role, release images.Release) (config.Config, error) {
	var args []string
	if h.config != "" {
		args = append(args, "--config="+h.config)
	}
	if h.dataDir != "" {
		args = append(args, "--data-dir="+h.dataDir)
	}
	invocation, err := engine.Parse(role, args, release)
	if err != nil {
		return config.Config{}, err
	}
	return invocation.Config, nil
}

// lastRole is what the node was when it last ran: a server keeps its own folder.
func (h hostNode) lastRole() (config.Role, error) {
	dataDir := h.dataDir
	if dataDir == "" {
		settings, err := closure.ReadSettings(h.configFile(), closure.Defaults(defaultOf("cni")))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			settings = closure.Defaults(defaultOf("cni"))
		case err != nil:
			return "", err
		}
		dataDir = settings.DataDir
	}
	if _, err := os.Stat(filepath.Join(dataDir, "server")); err == nil {
		return config.Server, nil
	}
	if _, err := os.Stat(filepath.Join(dataDir, "agent", "containerd")); err == nil {
		return config.Agent, nil
	}
	return config.Server, nil
}
