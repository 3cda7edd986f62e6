// Command rke2 runs a Kubernetes node from airgap bundles, and makes and reads
// such bundles.
package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/pflag"
)

func main() {
	// Kubernetes' libraries register dozens of options in the global set, which
	// cobra would offer with every command.
	pflag.CommandLine = pflag.NewFlagSet("rke2", pflag.ContinueOnError)
	if err := newCommand().Execute(); err != nil {
		code := 1
		var own interface{ ExitCode() int }
		if errors.As(err, &own) {
			code = own.ExitCode()
		}
		if err.Error() != "" {
			fmt.Fprintf(os.Stderr, "rke2: %v\n", err)
		}
		os.Exit(code)
	}
}
