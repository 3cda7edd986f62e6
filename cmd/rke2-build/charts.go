package main

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/rancher/rke2/images"
)

// chartRow is a chart in list's JSON form.
type chartRow struct {
	Chart             string   `json:"chart"`
	AppVersion        string   `json:"appVersion"`
	Bootstrap         bool     `json:"bootstrap"`                   // needed before nodes are ready
	CNI               string   `json:"cni,omitempty"`               // installed where cni names it
	IngressController string   `json:"ingressController,omitempty"` // installed where ingress-controller names it
	Images            []string `json:"images"`
	Definitions       string   `json:"definitions,omitempty"` // build context that its CRDs come from
}

func chartRows(list []images.Chart) []chartRow {
	var out []chartRow
	for _, c := range list {
		r := chartRow{
			Chart: c.Name, AppVersion: c.AppVersion, Bootstrap: c.Bootstrap, CNI: c.CNI, IngressController: c.IngressController, Images: []string{},
		}
		for _, i := range c.Images {
			if !slices.Contains(r.Images, i.Image) {
				r.Images = append(r.Images, i.Image)
			}
		}
		if c.CRDs != nil {
			r.Definitions = c.CRDs.Files.Context
		}
		out = append(out, r)
	}
	return out
}

// printCharts adds a table of the charts, if there are any.
func printCharts(cmd *cobra.Command, list []chartRow) error {
	if len(list) == 0 {
		return nil
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nCHART\tAPP VERSION\tINSTALLED\tIMAGES")
	for _, c := range list {
		when := "always"
		switch {
		case c.CNI != "":
			when = "cni: " + c.CNI
		case c.IngressController != "":
			when = "ingress-controller: " + c.IngressController
		}
		if c.Bootstrap {
			when += ", bootstrap"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", c.Chart, c.AppVersion, when, dash(strings.Join(c.Images, " ")))
	}
	return w.Flush()
}
