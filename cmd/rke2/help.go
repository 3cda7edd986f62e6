package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// sections are the headings under which a node's many options are shown, by the
// first part of the "(part/…)" that starts an option's description.
var sections = []struct{ key, title string }{
	{"airgap", "Airgap and trust"},
	{"security", "Hardening"},
	{"config", "Configuration"},
	{"cluster", "Cluster"},
	{"data", "Storage on this host"},
	{"client", "Access for clients"},
	{"listener", "Listeners and certificates"},
	{"networking", "Networking"},
	{"agent", "Node, kubelet and container runtime"},
	{"image", "Images"},
	{"components", "Components"},
	{"flags", "Options passed on to components"},
	{"helm", "Helm"},
	{"db", "etcd, its snapshots, and other datastores"},
	{"logging", "Logging"},
	{"experimental", "Experimental"},
	{"", "Other"},
}

// groupedUsage replaces a command's usage text by one whose options stand in
// sections, with the part that names the section taken off.
func groupedUsage(cmd *cobra.Command) {
	cmd.SetUsageFunc(func(c *cobra.Command) error {
		out := c.OutOrStderr()
		fmt.Fprintf(out, "Usage:\n  %s\n\nExamples:\n%s\n", c.UseLine(), c.Example)
		groups := map[string]*pflag.FlagSet{}
		c.LocalFlags().VisitAll(func(f *pflag.Flag) {
			key, text := section(f.Usage)
			if groups[key] == nil {
				groups[key] = pflag.NewFlagSet(key, pflag.ContinueOnError)
				groups[key].SortFlags = false
			}
			shown := *f
			shown.Usage = text
			groups[key].AddFlag(&shown)
		})
		for _, s := range sections {
			if flags := groups[s.key]; flags != nil && flags.HasAvailableFlags() {
				fmt.Fprintf(out, "\n%s:\n%s", s.title, flags.FlagUsagesWrapped(110))
			}
		}
		return nil
	})
}

// section takes "(db) Path to …" apart.
func section(usage string) (key, text string) {
	part, rest, ok := strings.Cut(usage, ") ")
	if !ok || !strings.HasPrefix(part, "(") {
		return "", usage
	}
	key, _, _ = strings.Cut(strings.TrimPrefix(part, "("), "/")
	if !slices.ContainsFunc(sections, func(s struct{ key, title string }) bool { return s.key == key }) {
		return "", usage
	}
	if strings.Contains(part, "experimental") && key != "experimental" {
		rest += " (experimental)"
	}
	return key, rest
}
