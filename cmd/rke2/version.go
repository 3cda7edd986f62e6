package main

import (
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rancher/rke2/images"
	"github.com/rancher/rke2/runtime/engine"
)

// versions are what this binary is made of.
type versions struct {
	Product     string `json:"product"`
	Development bool   `json:"development"`
	Kubernetes  string `json:"kubernetes"`
	Engine      string `json:"engine"`
	Go          string `json:"go"`
	Crypto      string `json:"crypto"`
}

func newVersions(release images.Release) versions {
	v := versions{
		Product:     release.Version,
		Development: release.Development,
		Kubernetes:  release.Kubernetes,
		Engine:      "k3s " + engine.Version(),
		Go:          runtime.Version(),
		Crypto:      crypto(),
	}
	if release.Version == "" {
		v.Product, v.Kubernetes = "none (built without a release: it trusts nothing)", "none"
	}
	return v
}

func versionText(release images.Release) string {
	v := newVersions(release)
	product := v.Product
	if v.Development {
		product += " (development build)"
	}
	return fmt.Sprintf("rke2 version %s\nkubernetes %s\nengine %s\ngo %s\ncrypto %s\n", product, v.Kubernetes, v.Engine, v.Go, v.Crypto)
}

// crypto names the cryptographic module from the binary's own build info.
func crypto() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown (no build info)"
	}
	for _, s := range info.Settings {
		if s.Key == "GOFIPS140" && s.Value != "" && s.Value != "off" {
			return "Go Cryptographic Module " + s.Value + " (FIPS 140-3)"
		}
	}
	return "Go standard library (not a FIPS build)"
}

func newVersionCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Print the versions of the product, Kubernetes, the engine, Go and crypto",
		Example: "  rke2 version\n  rke2 version -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			release, err := images.EmbeddedRelease()
			if err != nil {
				return err
			}
			switch strings.ToLower(output) {
			case "":
				_, err = fmt.Fprint(cmd.OutOrStdout(), versionText(release))
				return err
			case "json":
				encoder := json.NewEncoder(cmd.OutOrStdout())
				encoder.SetIndent("", "  ")
				return encoder.Encode(newVersions(release))
			}
			return fmt.Errorf("output %q: want json", output)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "output format: json")
	return cmd
}
