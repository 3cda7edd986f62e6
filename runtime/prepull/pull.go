package prepull

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Runtime is what is asked of the container runtime's CRI.
type Runtime interface {
	ImageStatus(ctx context.Context, in *runtimeapi.ImageStatusRequest, opts ...grpc.CallOption) (*runtimeapi.ImageStatusResponse, error)
	PullImage(ctx context.Context, in *runtimeapi.PullImageRequest, opts ...grpc.CallOption) (*runtimeapi.PullImageResponse, error)
}

// Puller pulls images one after another, and those that fail again and again.
type Puller struct {
	Runtime Runtime
	// Admit says what to pull for a reference: itself, or one by a digest that is trusted.
	// An error that is ErrRefused refuses the image for good; others are tried again.
	Admit func(context.Context, name.Reference) (name.Reference, error)
	// Pulled is called with each reference whose image is there, and what it was pulled
	// as; its error counts as one of the pull.
	Pulled func(ctx context.Context, ref, as name.Reference) error
	// Offline: nothing is pulled; what is absent is said in one warning.
	Offline bool
	// First and Longest bound the pauses between rounds; zero is 10 s and 10 min.
	First, Longest time.Duration
	Log            *slog.Logger
}

// Run returns when every image is there or refused, or with ctx.
func (p Puller) Run(ctx context.Context, lines []Line) {
	pause, longest := p.First, p.Longest
	if pause == 0 {
		pause = 10 * time.Second
	}
	if longest == 0 {
		longest = 10 * time.Minute
	}
	lines = once(lines)
	total, started := len(lines), time.Now()
	for round := 1; len(lines) > 0; round++ {
		var failed []Line
		var absent []string
		for n, line := range lines {
			err := p.one(ctx, line, fmt.Sprintf("%d of %d", total-len(lines)+n+1, total))
			switch {
			case ctx.Err() != nil:
				return
			case errors.Is(err, errOffline):
				absent = append(absent, line.Ref.String())
			case errors.Is(err, ErrRefused):
				p.Log.Error("an image of a list is not pulled", "image", line.Ref.String(), "list", line.File, "line", line.Line, "error", err)
			case err != nil:
				p.Log.Warn("an image of a list could not be pulled and is tried again", "image", line.Ref.String(), "list", line.File, "line", line.Line, "attempt", round, "error", err)
				failed = append(failed, line)
			}
		}
		if len(absent) > 0 {
			p.Log.Warn("images of lists are in no bundle and not in containerd, and offline is set, so they are not pulled: bring them in a bundle, or take them off the list", "images", absent)
		}
		lines = failed
		if len(lines) == 0 {
			p.Log.Info("images of lists are done", "listed", total, "absent", len(absent), "seconds", time.Since(started).Seconds())
			return
		}
		p.Log.Info("images of lists are pulled again later", "left", len(lines), "of", total, "pause", pause.String())
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, longest)
	}
}

// ErrRefused means that an image may not be used, whoever has it.
var ErrRefused = errors.New("refused")

var errOffline = errors.New("offline is set")

// one makes sure that one image is there.
func (p Puller) one(ctx context.Context, line Line, place string) error {
	there, err := p.has(ctx, line.Ref)
	if err != nil {
		return err
	}
	if there {
		return p.Pulled(ctx, line.Ref, line.Ref)
	}
	if p.Offline {
		return errOffline
	}
	as, err := p.Admit(ctx, line.Ref)
	if err != nil {
		return err
	}
	p.Log.Info("pulling an image of a list", "image", line.Ref.String(), "list", line.File, "number", place)
	started := time.Now()
	_, err = p.Runtime.PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: as.String()}})
	if err != nil {
		return err
	}
	if err := p.Pulled(ctx, line.Ref, as); err != nil {
		return err
	}
	p.Log.Info("pulled an image of a list", "image", line.Ref.String(), "seconds", time.Since(started).Seconds())
	return nil
}

func (p Puller) has(ctx context.Context, ref name.Reference) (bool, error) {
	status, err := p.Runtime.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: ref.String()}})
	return err == nil && status.Image != nil, err
}

// once drops what is listed again.
func once(lines []Line) []Line {
	var out []Line
	seen := map[string]bool{}
	for _, line := range lines {
		if !seen[line.Ref.String()] {
			seen[line.Ref.String()] = true
			out = append(out, line)
		}
	}
	return out
}
