package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/rancher/rke2/build/outdated"
)

// listOutdated shows what there are newer versions of.
func (f *flags) listOutdated(cmd *cobra.Command, asJSON bool) error {
	tree, err := f.tree()
	if err != nil {
		return err
	}
	o, err := f.lockOptions(cmd, tree, false)
	if err != nil {
		return err
	}
	found, err := outdated.Find(cmd.Context(), tree.Components, o)
	if err != nil {
		return err
	}
	if asJSON {
		if found == nil {
			found = []outdated.Entry{}
		}
		return printJSON(cmd, found)
	}
	if len(found) == 0 {
		fmt.Fprintln(cmd.OutOrStdout(), "nothing is outdated")
		return nil
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "COMPONENT\tKIND\tNAME\tCURRENT\tNEWEST\tARCH")
	for _, e := range found {
		if e.Problem != "" {
			// Long, and not for a column.
			fmt.Fprintf(cmd.ErrOrStderr(), "%s: %s\n", e.Name, e.Problem)
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\tnot known\tall\n", e.Component, e.Kind, e.Name, e.Current)
			continue
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", e.Component, e.Kind, e.Name, or(e.Current, "-"), or(e.Newest, "no longer needed"), or(e.Arch, "all"))
	}
	return w.Flush()
}

func or(s, other string) string {
	if s == "" {
		return other
	}
	return s
}
