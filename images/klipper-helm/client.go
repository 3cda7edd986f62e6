package main

import (
	"context"
	"io"
	"time"

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

// lastMoments is how long a job that is told to end lets Helm finish what it is at: most
// often it takes less, and a release in the middle of an upgrade has to be repaired. The
// kubelet kills the job's pod after 30 s.
const lastMoments = 10 * time.Second

// outlasting is a context that is done some time after ctx is. The function that it comes
// with has to be called.
func outlasting(ctx context.Context, by time.Duration) (context.Context, func()) {
	longer, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		select {
		case <-longer.Done():
		case <-time.After(by):
			cancel(context.Cause(ctx))
		}
	})
	return longer, func() {
		stop()
		cancel(nil)
	}
}
