package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/rancher/rke2/images"
	"github.com/rancher/rke2/runtime/config"
	"github.com/rancher/rke2/runtime/engine"
	"github.com/rancher/rke2/runtime/node"
)

// newNodeCommand is `rke2 server` or `rke2 agent`. Its options are declared
// here for help and completion; the engine parses them, with the configuration
// file and the environment.
func newNodeCommand(role config.Role) *cobra.Command {
	cmd := &cobra.Command{
		Use:  string(role),
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runNode(cmd.Context(), role, givenArgs(cmd))
		},
	}
	const settings = `
Settings come from the command line, then from /etc/rancher/rke2/config.yaml (and
config.yaml.d/*.yaml beside it), then from RKE2_* variables. A key of the file is
an option's name without the dashes; an option that may be repeated takes a list.`
	switch role {
	case config.Server:
		cmd.Short = "Run a server node: control plane, etcd and kubelet"
		cmd.Long = cmd.Short + ".\n" + settings
		cmd.Example = `  # on a host with no network, from the bundles in its images folder
  rke2 server --offline

  # with another network, without ingress and metrics, from /etc/rancher/rke2/config.yaml:
  #   offline: true
  #   cni: flannel
  #   ingress-controller: none
  #   disable: [rke2-metrics-server]
  rke2 server

  # with your own network: /opt/cni/bin and /etc/cni/net.d are yours
  rke2 server --offline --cni none

  # another server for an existing cluster
  rke2 server --server https://198.51.100.10:9345 --token-file /etc/rancher/rke2/token`
	case config.Agent:
		cmd.Short = "Run an agent node: kubelet only"
		cmd.Long = cmd.Short + ".\n" + settings
		cmd.Example = `  rke2 agent --server https://198.51.100.10:9345 --token-file /etc/rancher/rke2/token`
	}
	declare(cmd, engine.Flags(role))
	completeOptions(cmd, engine.Flags(role))
	explainOptions(cmd, role)
	groupedUsage(cmd)
	return cmd
}

// declare adds the engine's options to a command, in the engine's order.
func declare(cmd *cobra.Command, flags []engine.Flag) {
	for _, f := range flags {
		usage := strings.ReplaceAll(f.Usage, "`", "'")
		if len(f.Env) > 0 {
			usage += " [" + strings.Join(f.Env, ", ") + "]"
		}
		switch {
		case f.Bool:
			cmd.Flags().BoolP(f.Name, f.Shorthand, f.Default == "true", usage)
		case f.Multi:
			var defaults []string
			if f.Default != "" {
				defaults = []string{f.Default}
			}
			cmd.Flags().StringArrayP(f.Name, f.Shorthand, defaults, usage)
		default:
			cmd.Flags().StringP(f.Name, f.Shorthand, f.Default, usage)
		}
		if f.Hidden {
			_ = cmd.Flags().MarkHidden(f.Name) // it was declared two lines above
		}
	}
	cmd.Flags().SortFlags = false
}

// givenArgs are the options that were given, in one form for each.
func givenArgs(cmd *cobra.Command) []string {
	var args []string
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if many, ok := f.Value.(pflag.SliceValue); ok {
			for _, value := range many.GetSlice() {
				args = append(args, "--"+f.Name+"="+value)
			}
			return
		}
		args = append(args, "--"+f.Name+"="+f.Value.String())
	})
	return args
}

func runNode(ctx context.Context, role config.Role, args []string) error {
	release, err := images.EmbeddedRelease()
	if err != nil {
		return err
	}
	invocation, err := engine.Parse(role, args, release)
	if err != nil {
		return fmt.Errorf("%s: %w", role, err)
	}
	if err := engine.InitLogging(); err != nil {
		return err
	}
	log := engine.Logger()
	for _, warning := range invocation.Warnings {
		log.Warn(warning)
	}
	content, facts, err := node.Prepare(ctx, invocation.Config, log)
	if err != nil {
		return err
	}
	defer content.Close()
	return invocation.Run(facts, content, log)
}
