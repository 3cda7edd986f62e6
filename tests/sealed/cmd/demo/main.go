//go:build linux

// Command demo boots a node from the products of `make airgap` on a sealed host
// and opens a shell on it, with kubectl. Nothing of it is left when it ends.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/rancher/rke2/tests/sealed"
	"github.com/rancher/rke2/tests/sealed/node"
)

const (
	bootLimit = 5 * time.Minute
	stopLimit = 40 * time.Second
)

func main() { os.Exit(sealed.Guard(run)) }

func run() int {
	flag.Usage = func() {
		fmt.Fprint(flag.CommandLine.Output(), `usage: demo [-state DIR]

Boots a node from dist/ (or $RKE2_DIST) on a sealed host, a machine with no way
out, and opens a shell on it. Needs Linux and root. Leave with exit or Ctrl-D.

`)
		flag.PrintDefaults()
	}
	state := flag.String("state", "", "folder that keeps the host's disk: the next demo with it boots the same node (default: none is kept)")
	flag.Parse()
	if flag.NArg() > 0 {
		flag.Usage()
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := demo(ctx, *state); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		return 1
	}
	return 0
}

func demo(ctx context.Context, state string) (err error) {
	if err := sealed.Supported(); err != nil {
		return err
	}
	products, err := node.FindProducts()
	if err != nil {
		return err
	}
	p := newProgress(os.Stderr, term.IsTerminal(int(os.Stderr.Fd())))
	var n *node.Node
	err = p.step("a host with no way out", func() error {
		// Not ctx: on an interrupt the node is to be stopped in order first.
		n, err = node.New(context.WithoutCancel(ctx), node.Options{
			Name: "demo", State: state, Binary: products.Binary, Charts: true,
			Bundles: []string{products.Bundle, products.Set("canal"), products.Set("ingress-nginx")},
		})
		return err
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	if err := boot(ctx, p, n); ctx.Err() != nil {
		return errors.New("interrupted; everything is removed")
	} else if err != nil {
		return fmt.Errorf("%w\nthe end of the node's log:\n%s", err, n.LastWords())
	}
	welcome(n)
	err = shell(ctx, n)
	return errors.Join(err, p.step("stopping rke2", func() error {
		return n.Stop(context.WithoutCancel(ctx), stopLimit)
	}))
}

// boot starts the node and waits for what a user would wait for.
func boot(ctx context.Context, p *progress, n *node.Node) error {
	if err := n.Start(ctx); err != nil {
		return err
	}
	for _, step := range []struct {
		what string
		wait func(context.Context, time.Duration) error
	}{
		{"rke2 server: verify, stage, import; API server up", n.WaitAPI},
		{"node Ready", n.WaitReady},
		{"control plane Running", n.WaitControlPlane},
		{"charts' pods Ready: network, DNS, ingress, metrics", n.WaitCharts},
	} {
		if err := p.step(step.what, func() error { return step.wait(ctx, bootLimit) }); err != nil {
			return err
		}
	}
	return nil
}

func welcome(n *node.Node) {
	fmt.Fprintf(os.Stderr, `
This is a shell on the node %q. Its only network is itself. Try:

  kubectl get nodes,pods -A
  kubectl top pods -A
  rke2 --version
  crictl images
  ls %s

rke2's log is %s outside.
Leave with exit or Ctrl-D: the node is stopped and removed.

`, n.Name(), node.DataDir, n.LogFile("rke2"))
}
