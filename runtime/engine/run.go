package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/k3s-io/k3s/pkg/cli/agent"
	"github.com/k3s-io/k3s/pkg/cli/cmds"
	"github.com/k3s-io/k3s/pkg/cli/server"
	"github.com/k3s-io/k3s/pkg/daemons/executor"
	"github.com/urfave/cli/v2"

	"github.com/rancher/rke2/runtime/config"
	"github.com/rancher/rke2/runtime/host"
)

// Run runs the node until it is told to stop (nil) or cannot go on (the
// error). It returns when what it started has ended; running containers and
// their shims are not its to end.
func (i *Invocation) Run(facts host.Facts, content Content, log *slog.Logger) error {
	if err := checkMembership(i.Config); err != nil {
		return err
	}
	if i.Config.Role == config.Server && !i.cli.IsSet("secrets-encryption") {
		cmds.ServerConfig.EncryptSecrets = true
	}
	e := newExecutor(i.Config, facts, content, log)
	if err := e.sameCluster(); err != nil {
		return err
	}
	for _, name := range content.Charts().Removed {
		if err := i.cli.Set("disable", name); err != nil {
			return fmt.Errorf("taking back the chart %s: %w", name, err)
		}
	}
	i.warnOfExternalAddress(log)
	if err := e.prepareReset(context.Background()); err != nil {
		return fmt.Errorf("preparing the reset: %w", err)
	}
	executor.Set(e)
	useDriver()
	if err := e.registerMetrics(); err != nil {
		return err
	}
	run := map[config.Role]func(*cli.Context) error{
		config.Server: server.Run,
		config.Agent:  agent.Run,
	}[i.Config.Role]
	started := time.Now()
	err := run(i.cli)
	ended := e.endReset(context.Background())
	e.stop()
	if ended != nil {
		log.Warn("etcd runs on after the reset", "error", ended)
	}
	if e.failure() == nil {
		e.resetAdvice(started)
	}
	if cause := e.failure(); cause != nil {
		return cause
	}
	if errors.Is(err, context.Canceled) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("running the %s: %w", i.Config.Role, err)
	}
	return nil
}

// warnOfExternalAddress says what an external address of the node does not do here.
func (i *Invocation) warnOfExternalAddress(log *slog.Logger) {
	addresses := cmds.AgentConfig.NodeExternalIP.Value()
	// Agents are told by their servers whether there is one.
	if len(addresses) == 0 || i.Config.Role != config.Server || i.cli.String("cloud-provider-name") != "none" {
		return
	}
	log.Warn("node-external-ip goes into certificates and is what servers advertise, but not into the status of the node: a cloud controller manager puts it there: set cloud-provider-name: rke2 on every server",
		"node-external-ip", strings.Join(addresses, ","))
}
