package main

import (
	_ "github.com/containerd/containerd/v2/client"
	_ "github.com/google/go-containerregistry/pkg/v1/layout"
	_ "github.com/k3s-io/k3s/pkg/cli/agent"
	_ "github.com/k3s-io/k3s/pkg/cli/cert"
	_ "github.com/k3s-io/k3s/pkg/cli/etcdsnapshot"
	_ "github.com/k3s-io/k3s/pkg/cli/secretsencrypt"
	_ "github.com/k3s-io/k3s/pkg/cli/server"
	_ "github.com/k3s-io/k3s/pkg/cli/token"
	_ "github.com/k3s-io/k3s/pkg/daemons/executor"
	_ "github.com/sigstore/sigstore/pkg/signature/payload"
	_ "github.com/spf13/cobra"
	_ "github.com/klauspost/compress/zstd"
)

func main() {}
