package main

import (
	"io"

	"helm.sh/helm/v3/pkg/kube"
)

// client is Helm's client of the Kubernetes API, without the OpenAPI documents. Helm reads
// some for each chart, which the API server has to make first, only to learn that the
// server checks the fields of objects by itself; it then leaves that to the server. The
// server does so unasked, and what it warns of is in the log (see newCluster).
type client struct{ *kube.Client }

var (
	_ kube.Interface                    = client{}
	_ kube.InterfaceExt                 = client{}
	_ kube.InterfaceLogs                = client{}
	_ kube.InterfaceThreeWayMerge       = client{}
	_ kube.InterfaceDeletionPropagation = client{}
)

// Build makes objects of a manifest, whether validation is wanted or not.
func (c client) Build(manifest io.Reader, _ bool) (kube.ResourceList, error) {
	return c.Client.Build(manifest, false)
}
