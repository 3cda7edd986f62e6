package node

import (
	"fmt"
	"log/slog"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/airgap/trust"
	"github.com/rancher/rke2/runtime/config"
	"github.com/rancher/rke2/runtime/host"
	"github.com/rancher/rke2/runtime/preflight"
	"github.com/rancher/rke2/runtime/scan"
)

// Policy is what a node with these settings trusts: the release's keys and pinned
// digests, and the operator's keys.
func Policy(c config.Config) (trust.Policy, error) { return newPolicy(c) }

// Look is what checks look at before a node with these settings starts on a machine.
func Look(m host.Machine, c config.Config, policy trust.Policy, folder *scan.Folder) preflight.Input {
	return preflight.Input{
		Machine: m, Config: c, Folder: folder,
		Admit: func(a *airgap.Archive, image airgap.Image) (trust.Admitted, error) {
			if len(image.Refs)+len(image.Digests) == 0 {
				return trust.Admitted{}, fmt.Errorf("an image of %s has no name", a.Path())
			}
			return admit(policy, a, image)
		},
		Pinned: func(n preflight.Need) (v1.Hash, bool) {
			tag, ok := n.Ref.(name.Tag)
			if !ok {
				return v1.Hash{}, false
			}
			admitted, ok := policy.Pinned(tag)
			return admitted.Digest(), ok
		},
	}
}

// checks look at this machine before anything is written. Warnings go into the log.
type checks func(config.Config, trust.Policy, *scan.Folder, *slog.Logger) error

func checkHost(c config.Config, policy trust.Policy, folder *scan.Folder, log *slog.Logger) error {
	warnings, err := preflight.Start(Look(host.This(), c, policy, folder))
	for _, w := range warnings {
		switch w.Name {
		case "cgroups", "images": // host.Facts and the phases that follow say it
		default:
			log.Warn("this host: "+w.Found, "check", w.Name, "todo", w.ToDo)
		}
	}
	return err
}
