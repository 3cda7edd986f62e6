package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/rancher/rke2/airgap/registry"
	"github.com/rancher/rke2/build/cache"
	"github.com/rancher/rke2/build/upstream"
	"github.com/rancher/rke2/images"
)

// upstream makes components that are somebody else's images. Registries are reached with
// docker login's credentials, and trusted as the system does (SSL_CERT_FILE).
func (f *flags) upstream(cmd *cobra.Command, tree *images.Tree, c *cache.Cache) (*upstream.Maker, error) {
	client, err := registry.New(registry.Settings{
		Retries: 7,
		Retrying: func(what string, cause error, pause time.Duration) {
			fmt.Fprintf(cmd.ErrOrStderr(), "%-8s %s failed, again in %s: %v\n", "fetch", what, pause.Round(100*time.Millisecond), cause)
		},
	})
	if err != nil {
		return nil, err
	}
	return upstream.New(c, tree.Product.Debian, client), nil
}
