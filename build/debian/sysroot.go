package debian

import (
	"sort"

	"github.com/rancher/rke2/images"
)

// sysrootRequest is what C code is compiled and linked against: the C library, and what
// the component names. libgcc comes with the compiler.
func sysrootRequest(c images.Component) request {
	q := request{packages: []string{"libc6-dev"}, leave: map[string]string{
		"libc-dev-bin": "programs of the C library's package that no build runs",
		"rpcsvc-proto": "RPC headers and programs, of no use here",
		"libtirpc-dev": "RPC headers, of no use here",
		"libnsl-dev":   "NIS headers, of no use here",
		"libgcc-s1":    "comes with the compiler",
	}}
	if c.Cgo != nil {
		for _, l := range c.Cgo.Libraries {
			q.packages = append(q.packages, l.Package)
		}
	}
	sort.Strings(q.packages)
	return q
}
