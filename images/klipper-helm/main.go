// Command klipper-helm installs, upgrades or deletes one Helm release, and exits. It is
// the program of the pods that helm-controller starts for a HelmChart resource, and
// takes its orders the way that helm-controller v0.16 and v0.17 give them: arguments,
// environment, and files mounted into the pod. Helm is linked in; nothing is executed.
//
// Exit codes: 0 done (delete: also when Helm could not uninstall all of it), 1 failed, to
// be tried again, 64 the job cannot be understood and trying again will not help.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"
)

const (
	exitFailed = 1
	exitUsage  = 64 // EX_USAGE of sysexits(3)
)

// version is filled in by the linker with the product's version.
var version = "unknown"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Getenv, podFiles(os.Getenv("HOME")), os.Stdout)
	stop()
	os.Exit(code)
}

// run does one job and gives the process's exit code.
func run(ctx context.Context, args []string, env func(string) string, f files, out io.Writer) int {
	if len(args) == 1 && (args[0] == "version" || args[0] == "--version") {
		fmt.Fprintf(out, "klipper-helm %s (helm %s, %s)\n", version, helmVersion(), runtime.Version())
		return 0
	}
	r := &report{out: out, termination: f.termination}
	j, err := parse(args, env)
	if err == nil {
		err = untilDone(ctx, func() error { return j.do(ctx, f, r) })
	}
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w (%w)", err, context.Cause(ctx)) // which signal it was
	}
	var usage *usageError
	var uninstall *uninstallError
	switch {
	case errors.As(err, &usage):
		r.last("cannot run this job: %v", err)
		return exitUsage
	case errors.As(err, &uninstall) && ctx.Err() == nil:
		// A HelmChart whose delete job fails for ever could never be removed.
		r.last("release %s: delete did not complete, and is not tried again: %v", j.name, err)
		return 0
	case err != nil:
		r.last("release %s: failed: %v", j.name, err)
		return exitFailed
	}
	return 0
}

// lastMoments is how long Helm may take to write down that it was told to end.
const lastMoments = time.Second

// untilDone runs a job until it is done, or was told to end: not all that Helm does heeds
// that, and a job that goes on works against the one that comes after it.
func untilDone(ctx context.Context, job func() error) error {
	done := make(chan error, 1)
	go func() { done <- job() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-done:
		return err
	case <-time.After(lastMoments):
		return errors.New("ended in the middle")
	}
}

// helmVersion is that of the Helm module in this binary.
func helmVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if m.Path == "helm.sh/helm/v3" {
				return m.Version
			}
		}
	}
	return "unknown"
}
