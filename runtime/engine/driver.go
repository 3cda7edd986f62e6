package engine

import (
	"context"
	"sync"

	"github.com/k3s-io/k3s/pkg/clientaccess"
	"github.com/k3s-io/k3s/pkg/cluster/managed"
	"github.com/k3s-io/k3s/pkg/etcd"
	"github.com/k3s-io/k3s/pkg/util"
)

// driver is the engine's etcd, with a client that outlives what uses it. The engine closes
// the client at the signal to stop, and ends its controllers 5 s later: one that hears of
// an API server's address in between writes with no client, and the process panics.
type driver struct{ managed.Driver }

// useDriver has the engine use driver.
func useDriver() {
	managed.Clear()
	managed.RegisterDriver(driver{etcd.NewETCD()})
}

// Start gives etcd a context that is done after those of the controllers. Where this server
// is yet to join, stopping would wait for that context, and there are no controllers.
func (d driver) Start(ctx context.Context, wg *sync.WaitGroup, join *clientaccess.Info) error {
	member, err := d.IsInitialized()
	if err != nil {
		return err
	}
	if member || join == nil {
		ctx = util.DelayCancel(ctx, 2*util.DefaultContextDelay)
	}
	return d.Driver.Start(ctx, wg, join)
}
