// Command coredns-autoscaler sets the number of the cluster's DNS servers from the number
// of its nodes and of their cores. It looks at both every few seconds and changes a
// Deployment's scale when it differs; several of it at once do no harm, so none is a leader.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// version is filled in by the linker with the image's declared version.
var version = "unknown"

const usage = `Sets a Deployment's replicas from the cluster's nodes and cores:

  max(cores / cores-per-replica, nodes / nodes-per-replica), rounded up, from min to max

Nodes that are Ready and take pods ask for more; only nodes that were removed ask for fewer.

Usage: coredns-autoscaler --deployment NAME [flags]

It talks to the API server as the pod that it runs in.

`

type options struct {
	namespace, deployment string
	rule                  rule
	period                time.Duration
	listen                string
	version               bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	opt, err := parse(os.Args[1:], os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return
	case err != nil:
		fmt.Fprintln(os.Stderr, "coredns-autoscaler:", err)
		os.Exit(2)
	case opt.version:
		fmt.Println("coredns-autoscaler", version)
		return
	}
	if err := run(ctx, opt); err != nil {
		fmt.Fprintln(os.Stderr, "coredns-autoscaler:", err)
		os.Exit(1)
	}
}

func parse(args []string, out io.Writer) (options, error) {
	var opt options
	fs := flag.NewFlagSet("coredns-autoscaler", flag.ContinueOnError)
	fs.SetOutput(out)
	fs.StringVar(&opt.namespace, "namespace", "kube-system", "namespace of the Deployment")
	fs.StringVar(&opt.deployment, "deployment", "", "name of the Deployment")
	fs.Float64Var(&opt.rule.coresPerReplica, "cores-per-replica", 256, "cores that one server is enough for")
	fs.Float64Var(&opt.rule.nodesPerReplica, "nodes-per-replica", 16, "nodes that one server is enough for")
	fs.IntVar(&opt.rule.min, "min", 1, "servers that there are at least")
	fs.IntVar(&opt.rule.max, "max", 0, "servers that there are at most (0: no limit)")
	fs.BoolVar(&opt.rule.noSinglePoint, "prevent-single-point-failure", true, "at least two servers where there are several nodes")
	fs.DurationVar(&opt.period, "period", 10*time.Second, "time between two looks at the nodes")
	fs.StringVar(&opt.listen, "listen", "", "address to answer /ready and /live at (empty: none)")
	fs.BoolVar(&opt.version, "version", false, "print the version and exit")
	fs.Usage = func() {
		fmt.Fprint(fs.Output(), usage)
		fs.PrintDefaults()
	}
	if err := fs.Parse(args); err != nil {
		return options{}, err
	}
	switch {
	case opt.version:
		return opt, nil
	case fs.NArg() > 0:
		return options{}, fmt.Errorf("unexpected argument %q", fs.Arg(0))
	case opt.deployment == "":
		return options{}, errors.New("no --deployment is named")
	case opt.period <= 0:
		return options{}, fmt.Errorf("a period of %s: it must be above 0", opt.period)
	}
	return opt, opt.rule.check()
}

func run(ctx context.Context, opt options) error {
	api, err := inCluster()
	if err != nil {
		return err
	}
	s := &scaler{api: api, opt: opt, log: log.New(os.Stderr, "", log.LstdFlags)}
	if opt.listen != "" {
		server := &http.Server{Addr: opt.listen, Handler: s.health(), ReadHeaderTimeout: 5 * time.Second}
		failed := make(chan error, 1)
		go func() { failed <- server.ListenAndServe() }()
		defer func() { _ = server.Close() }()
		var cancel context.CancelCauseFunc
		ctx, cancel = context.WithCancelCause(ctx)
		go func() { cancel(fmt.Errorf("answering probes: %w", <-failed)) }()
	}
	s.loop(ctx)
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}
