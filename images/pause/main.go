// Command pause is the first process of every pod. It holds the pod's namespaces
// open, reaps the pod's orphans when it is their process 1 (shareProcessNamespace),
// and goes when it is told to.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// version is filled in by the linker with the component's declared version.
var version = "unknown"

func main() {
	show := flag.Bool("v", false, "print the version and exit")
	flag.Parse()
	if *show {
		fmt.Println("pause", version)
		return
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGCHLD)
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "pause: warning: not process 1 of its PID namespace, orphans of other processes are not reaped")
	}
	// A child may have ended before Notify.
	reap()
	for s := range signals {
		if s == syscall.SIGCHLD {
			reap()
			continue
		}
		fmt.Fprintf(os.Stderr, "pause: shutting down: %v\n", s)
		return
	}
}

// reap collects every child that has ended. SIGCHLDs coalesce, so one signal may
// stand for many.
func reap() {
	for {
		pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
	}
}
