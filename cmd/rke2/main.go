// Command rke2 runs a Kubernetes node from airgap bundles, and makes and reads
// such bundles.
package main

import (
	"fmt"
	"os"
)

func main() {
	if err := newCommand().Execute(); err != nil {
		fmt.Fprintf(os.Stderr, "rke2: %v\n", err)
		os.Exit(1)
	}
}
