package imageimport

import (
	"context"
	"fmt"

	eventtypes "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/typeurl/v2"
)

// Deleted gives the names of images that are deleted from containerd from now on, by
// whomever. The channel is closed when ctx ends or the subscription breaks; then err
// says why it broke, nil if it is ctx that ended.
func (i *Importer) Deleted(ctx context.Context) (deleted <-chan string, err func() error) {
	namespace, _ := namespaces.Namespace(ctx)
	filter := `topic=="/images/delete"`
	if namespace != "" {
		filter += ",namespace==" + namespace
	}
	events, broken := i.Client.EventService().Subscribe(ctx, filter)
	out := make(chan string)
	var last error
	go func() {
		defer close(out)
		for {
			select {
			case <-ctx.Done():
				return
			case last = <-broken:
				if ctx.Err() != nil {
					last = nil
				}
				return
			case event := <-events:
				decoded, err := typeurl.UnmarshalAny(event.Event)
				if err != nil {
					last = fmt.Errorf("decoding an event of containerd: %w", err)
					return
				}
				gone, ok := decoded.(*eventtypes.ImageDelete)
				if !ok {
					continue
				}
				select {
				case <-ctx.Done():
					return
				case out <- gone.Name:
				}
			}
		}
	}()
	// The channel's close orders the write of last before the read.
	return out, func() error { return last }
}
