//go:build !linux

package scenarios

import (
	"testing"

	"github.com/rancher/rke2/tests/sealed"
)

func TestNode(t *testing.T) { t.Skip(sealed.ErrUnsupported) }
