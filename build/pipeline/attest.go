package pipeline

import (
	"context"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func (p *Pipeline) describe(_ *piece, _ name.Tag) error { return nil }

func (s *signer) attest(_ context.Context, _ string, _ v1.Descriptor) error { return nil }
