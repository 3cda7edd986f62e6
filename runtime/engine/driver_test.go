package engine

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/k3s-io/k3s/pkg/clientaccess"
	"github.com/k3s-io/k3s/pkg/cluster/managed"
	"github.com/k3s-io/k3s/pkg/util"
)

// started is an etcd that remembers what it was started with.
type started struct {
	managed.Driver
	member bool
	ctx    context.Context
}

func (s *started) IsInitialized() (bool, error) { return s.member, nil }

func (s *started) Start(ctx context.Context, _ *sync.WaitGroup, _ *clientaccess.Info) error {
	s.ctx = ctx
	return nil
}

func TestDriverOutlivesControllers(t *testing.T) {
	for name, c := range map[string]struct {
		member  bool
		join    *clientaccess.Info
		outlive bool
	}{
		"first server":         {outlive: true},
		"member":               {member: true, outlive: true},
		"member with a server": {member: true, join: &clientaccess.Info{}, outlive: true},
		"yet to join":          {join: &clientaccess.Info{}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				signal, stop := context.WithCancel(t.Context())
				defer stop()
				inner := &started{member: c.member}
				if err := (driver{inner}).Start(signal, nil, c.join); err != nil {
					t.Fatal(err)
				}
				controllers := util.DelayCancel(signal, util.DefaultContextDelay)
				stop()
				<-controllers.Done()
				if alive := inner.ctx.Err() == nil; alive != c.outlive {
					t.Errorf("when the controllers end, etcd's client is there: %v, want %v", alive, c.outlive)
				}
				time.Sleep(time.Minute)
				if inner.ctx.Err() == nil {
					t.Error("etcd's client is never closed")
				}
			})
		})
	}
}

func TestDriverIsTheEngines(t *testing.T) {
	useDriver()
	if _, ok := managed.Default().(driver); !ok || len(managed.Registered()) != 1 {
		t.Errorf("the engine has %v", managed.Registered())
	}
}
