// Command peer is what a node's start is measured against: the same component binaries
// and images, brought up in the way of K3s and RKE2 instead of ours. It is part of no
// release.
//
// K3s's server, agent, containerd supervision and preload importer are used as they are:
// every archive of agent/images is imported whole, at every start, before the kubelet is
// started. The runtime image is taken out of an archive by wharfie, which both use. Static
// pods are handled as RKE2 does it (as read in its sources in 2025): the API server's
// manifest is removed and written again when etcd answers, which is asked every 5 s; the
// others' stay from the last start; sandboxes that are not the manifests' are looked for,
// and removed, every 20 s before the API server is asked; the kubelet has RKE2's settings.
// Nothing is verified.
//
// What differs from RKE2: no charts, no kube-proxy and no cloud controller, which our
// release does not have either; the probes of our pods, which are asked more often; host
// facts (cgroup v1, no CAP_SYS_RESOURCE) are adapted to as in our node.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"github.com/k3s-io/k3s/pkg/cli/cmds"
	"github.com/k3s-io/k3s/pkg/cli/server"
	"github.com/k3s-io/k3s/pkg/configfilearg"
	"github.com/k3s-io/k3s/pkg/daemons/executor"
	"github.com/k3s-io/k3s/pkg/version"
	"github.com/urfave/cli/v2"

	"github.com/rancher/rke2/images"
	"github.com/rancher/rke2/runtime/host"
)

func main() {
	if err := run(); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "peer:", err)
		os.Exit(1)
	}
}

func run() error {
	release, err := images.EmbeddedRelease()
	if err != nil {
		return err
	}
	facts, err := host.Detect()
	if err != nil {
		return err
	}
	version.UpstreamGolang, _, _ = strings.Cut(runtime.Version(), " ")
	version.Version = release.Version
	app := cli.NewApp()
	app.Name, app.Version = version.Program, release.Version
	app.DisableSliceFlagSeparator = true
	app.Commands = []*cli.Command{cmds.NewServerCommand(func(c *cli.Context) error {
		settings()
		executor.Set(newPods(release, facts))
		return server.Run(c)
	})}
	// K3s knows its load balancer, which brings the cloud controller, only as an item.
	return app.Run(append(configfilearg.MustParse(os.Args), "--disable=servicelb"))
}

// settings make K3s a server as RKE2 does: static pods, its ports, none of K3s's own
// additions.
func settings() {
	s, a := &cmds.ServerConfig, &cmds.AgentConfig
	s.ClusterInit = true
	s.DisableNPC, s.DisableCCM, s.DisableKubeProxy = true, true, true
	s.FlannelBackend = "none"
	s.SupervisorPort, s.HTTPSPort, s.APIServerPort, s.AdvertisePort = 9345, 6443, 6443, 6443
	s.APIServerBindAddress = "0.0.0.0"
	s.ServiceLBNamespace = "kube-system"
	s.DisableHelmController = true
	s.DataDir = dataDir
	a.DataDir = dataDir
	a.DisableServiceLB = true
	a.PauseImage = ""
}

const dataDir = "/var/lib/rancher/rke2"
