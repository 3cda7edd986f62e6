// Command crictl is the CRI command line of kubernetes-sigs/cri-tools.
//
// The version that K3s's module graph offers keeps crictl as a library, so the
// program is this one call.
package main

import crictl "sigs.k8s.io/cri-tools/cmd/crictl"

func main() {
	crictl.Main()
}
