package main

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/rancher/rke2/build/compile"
	"github.com/rancher/rke2/build/pipeline"
	"github.com/rancher/rke2/images"
)

func newList(f *flags) *cobra.Command {
	newer := false
	cmd := &cobra.Command{
		Use:   "list",
		Short: "Show the components and charts: version, module, binaries, size, crypto",
		Long: `Shows every declared component. Size and crypto are those of the binaries in the
build cache; a component that isn't built with the present inputs has none. Then the
charts that are packaged into the runtime image, when a server installs them, and the
images that they run.

--outdated shows instead what there are newer versions of: it asks the go command's
module proxy for what wrapper modules require, and the Debian archive and registries for
what locks pin.`,
		Example: "  rke2-build list\n  rke2-build list -o json | jq '.[].version'\n  rke2-build list --outdated",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if newer {
				return f.listOutdated(cmd, f.asJSON())
			}
			p, err := f.pipeline(cmd)
			if err != nil {
				return err
			}
			listed, err := p.List(cmd.Context())
			if err != nil {
				return err
			}
			if f.asJSON() {
				return printJSON(cmd, rows(listed))
			}
			return printTable(cmd, listed)
		},
	}
	cmd.Flags().BoolVar(&newer, "outdated", false, "show what there are newer versions of")
	outputFlag(cmd, f)
	return cmd
}

// row is a component in list's JSON form.
type row struct {
	Component   string           `json:"component"`
	Description string           `json:"description"`
	Kind        images.Kind      `json:"kind"`
	Version     string           `json:"version"`
	From        string           `json:"from"` // module, Debian packages or upstream image
	Platform    string           `json:"platform"`
	Built       bool             `json:"built"`  // of Go modules: all binaries are in the cache
	Crypto      string           `json:"crypto"` // of the binaries, or as declared
	CryptoWhy   string           `json:"cryptoReason,omitempty"`
	Size        int64            `json:"size"` // bytes, 0 if not built
	Binaries    []string         `json:"binaries"`
	Images      []string         `json:"images"`
	Artifacts   []compile.Binary `json:"artifacts,omitempty"`
	Charts      []chartRow       `json:"charts,omitempty"`
}

func rows(listed []pipeline.Listed) []row {
	out := []row{}
	for _, l := range listed {
		c := l.Component
		r := row{
			Component: c.Name, Description: c.Description, Kind: c.Kind, Version: c.Version, From: from(c), Platform: l.Platform.String(),
			Built: l.Built, Crypto: string(c.Crypto), CryptoWhy: c.CryptoReason, Binaries: []string{}, Images: append([]string{}, l.Images...),
			Charts: chartRows(c.Charts),
		}
		for _, b := range c.Binaries {
			r.Binaries = append(r.Binaries, b.Name)
		}
		if l.Built {
			r.Artifacts = l.Artifact.Binaries
			r.Crypto = l.Artifact.Binaries[0].Crypto
			for _, b := range l.Artifact.Binaries {
				r.Size += b.Size
			}
		}
		out = append(out, r)
	}
	return out
}

// from says in one line what a component is made from.
func from(c images.Component) string {
	switch c.Kind {
	case images.KindDebian:
		return fmt.Sprintf("%d Debian packages", len(c.Debian.Packages))
	case images.KindSource:
		return "Debian source: " + c.Source.Package
	case images.KindUpstream:
		return c.Upstream.Image
	case images.KindCharts:
		return fmt.Sprintf("%d charts", len(c.Charts))
	}
	return c.Module
}

func printTable(cmd *cobra.Command, listed []pipeline.Listed) error {
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "COMPONENT\tVERSION\tFROM\tBINARIES\tSIZE\tCRYPTO\tIMAGES")
	for _, r := range rows(listed) {
		component, crypto, in := r.Component+"\t"+r.Version+"\t"+r.From, r.Crypto, strings.Join(r.Images, " ")
		if !r.Built && r.Kind == images.KindGo {
			crypto = "(" + crypto + ")"
		}
		if len(r.Binaries) == 0 {
			fmt.Fprintf(w, "%s\t-\t-\t%s\t%s\n", component, crypto, in)
		}
		for i, b := range r.Binaries {
			mb := "-"
			switch {
			case r.Built:
				mb = size(r.Artifacts[i].Size)
			case r.Kind == images.KindGo:
				mb = "not built"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", component, b, mb, crypto, in)
			component, crypto, in = "\t\t", "", ""
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, l := range listed {
		if err := printCharts(cmd, chartRows(l.Component.Charts)); err != nil {
			return err
		}
	}
	return nil
}
