package serve

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/rancher/rke2/airgap/catalog"
)

// look is what files there are, in a form that changes when one of them does.
func (s *Server) look() (string, error) {
	files, err := catalog.Files(s.o.Paths)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, f := range files {
		fmt.Fprintf(&b, "%s\n", catalog.Identity(f.Path))
	}
	return b.String(), nil
}

// watch reloads when files changed and have come to rest: a bundle that is being copied
// grows between two looks.
func (s *Server) watch(ctx context.Context) {
	if s.o.Watch <= 0 {
		return
	}
	tick := time.NewTicker(s.o.Watch)
	defer tick.Stop()
	before := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now, err := s.look()
		if err != nil {
			now = err.Error() // a folder that is gone: load says so, once
		}
		s.loading.Lock()
		same := now == s.state
		s.loading.Unlock()
		if !same && now == before {
			// It is told through Loaded; what was served stays.
			_ = s.load(ctx, now)
		}
		before = now
	}
}
