package main

import (
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/rancher/rke2/build/compile"
	"github.com/rancher/rke2/build/pipeline"
)

func newCompile(f *flags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "compile [COMPONENT…]",
		Short: "Compile components (none named: all)",
		Long: `Compiles components into the build cache and checks the result: static, built with the
declared cryptography. What is there for the same inputs is not built again. Where each
binary is goes to standard output.`,
		Example:           "  rke2-build compile\n  rke2-build compile runc etcd",
		ValidArgsFunction: f.completeComponents,
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := f.pipeline(cmd)
			if err != nil {
				return err
			}
			components, err := p.Components(args)
			if err != nil {
				return usageError{err}
			}
			made, err := p.Make(cmd.Context(), components)
			if err != nil {
				return err
			}
			if f.asJSON() {
				return printJSON(cmd, madeRows(made))
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			for _, a := range madeRows(made) {
				if len(a.Binaries) == 0 {
					fmt.Fprintf(w, "%s\t%s\t%s\t%d files\n", a.Component, a.Platform, size(a.Size), a.Files)
				}
				for _, b := range a.Binaries {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", b.Name, a.Platform, size(b.Size), dash(b.Crypto), b.Path)
				}
			}
			return w.Flush()
		},
	}
	outputFlag(cmd, f)
	return cmd
}

// madeRow is a component in compile's JSON form.
type madeRow struct {
	Component string           `json:"component"`
	Version   string           `json:"version"`
	Platform  string           `json:"platform"`
	Cached    bool             `json:"cached"`
	Elapsed   time.Duration    `json:"elapsed"` // nanoseconds
	Size      int64            `json:"size"`    // bytes
	Files     int              `json:"files"`
	Binaries  []compile.Binary `json:"binaries"`
}

func madeRows(made []pipeline.Made) []madeRow {
	out := []madeRow{}
	for _, m := range made {
		r := madeRow{
			Component: m.Component, Version: m.Version, Platform: m.Platform.String(), Cached: m.Cached,
			Elapsed: m.Elapsed, Size: m.Size, Binaries: append([]compile.Binary{}, m.Binaries...),
		}
		for _, files := range m.Contexts {
			r.Files += len(files)
		}
		out = append(out, r)
	}
	return out
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
