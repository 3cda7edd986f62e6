package main

import (
	_ "github.com/google/go-containerregistry/pkg/v1/layout"
	_ "github.com/moby/buildkit/frontend/dockerfile/instructions"
	_ "github.com/moby/buildkit/frontend/dockerfile/parser"
	_ "github.com/sigstore/cosign/v2/pkg/cosign"
	_ "github.com/sigstore/cosign/v2/pkg/signature"
	_ "github.com/sigstore/cosign/v2/pkg/oci/layout"
	_ "github.com/spf13/cobra"
)

func main() {}
