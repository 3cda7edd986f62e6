package main

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/rancher/rke2/build/cache"
	"github.com/rancher/rke2/build/debian"
	"github.com/rancher/rke2/build/lock"
	"github.com/rancher/rke2/images"
)

func newLock(f *flags) *cobra.Command {
	var update []string
	var expired bool
	cmd := &cobra.Command{
		Use:   "lock [COMPONENT…]",
		Short: "Resolve Debian packages, sources and upstream images to sources.lock (none named: all)",
		Long: `Pins what components declare besides Go modules: Debian packages with what they
depend on, Debian sources, and upstream images, by version and hash, for all
architectures, in images/<component>/sources.lock. Commit it, as go.sum.

Debian's indexes are taken only after the archive's signed Release file verified with
` + debian.Keyring + ` (` + debian.KeyringEnv + `).
` + debian.MirrorEnv + ` and ` + debian.SecurityMirrorEnv + ` name other mirrors.

A lock that is there and belongs to its declaration is left alone. Where a declaration
changed, pins that still fit stay. --update lets a component, package or source move
to the newest version ("all": everything).`,
		Example:           "  rke2-build lock\n  rke2-build lock --update iptables --update libseccomp-dev\n  rke2-build lock --update all",
		ValidArgsFunction: f.completeComponents,
		RunE: func(cmd *cobra.Command, args []string) error {
			tree, err := f.tree()
			if err != nil {
				return err
			}
			components, err := lockable(tree, args)
			if err != nil {
				return usageError{err}
			}
			o, err := f.lockOptions(cmd, tree, expired)
			if err != nil {
				return err
			}
			o.Update = update
			updated, err := lock.Update(cmd.Context(), components, o)
			if err != nil {
				return err
			}
			if f.asJSON() {
				return printJSON(cmd, updated)
			}
			return printUpdated(cmd, updated)
		},
	}
	cmd.Flags().StringArrayVar(&update, "update", nil, "component, package or source that may move to a newer version (repeatable; \"all\")")
	cmd.Flags().BoolVar(&expired, "allow-expired", false, "take Release files past their Valid-Until: for snapshots of an archive")
	outputFlag(cmd, f)
	return cmd
}

// lockable finds components by name; no names means all.
func lockable(tree *images.Tree, names []string) ([]images.Component, error) {
	if len(names) == 0 {
		return tree.Components, nil
	}
	var out []images.Component
	for _, n := range names {
		c, ok := tree.Component(n)
		if !ok {
			return nil, fmt.Errorf("there is no component %q", n)
		}
		if !lock.Needed(c) {
			return nil, fmt.Errorf("component %s is Go modules alone: go.sum locks it, and go get updates it", n)
		}
		out = append(out, c)
	}
	return out, nil
}

// lockOptions has what resolves locks.
func (f *flags) lockOptions(cmd *cobra.Command, tree *images.Tree, expired bool) (lock.Options, error) {
	c, err := f.openCache()
	if err != nil {
		return lock.Options{}, err
	}
	upstream, err := f.upstream(cmd, tree, c)
	if err != nil {
		return lock.Options{}, err
	}
	archive, err := f.archive(cmd, tree, expired)
	if err != nil {
		return lock.Options{}, err
	}
	resolver := debian.NewResolver(archive)
	return lock.Options{
		Mirrors: tree.Product.Debian,
		Resolvers: map[images.Kind]lock.Resolver{
			images.KindDebian:   resolver,
			images.KindSource:   resolver,
			images.KindGo:       resolver,
			images.KindUpstream: upstream,
		},
		Resolving: func(c string) { fmt.Fprintf(cmd.ErrOrStderr(), "%-8s %-20s resolving\n", "lock", c) },
	}, nil
}

// archive opens the Debian archive of these flags.
func (f *flags) archive(cmd *cobra.Command, tree *images.Tree, expired bool) (*debian.Archive, error) {
	c, err := f.openCache()
	if err != nil {
		return nil, err
	}
	return debian.NewArchive(c, debian.MirrorsFromEnv(tree.Product.Debian), debian.Options{
		AllowExpired: expired,
		Fetching: func(what string, n int64) {
			if n == 0 {
				fmt.Fprintf(cmd.ErrOrStderr(), "%-8s %s\n", "fetch", what)
				return
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "%-8s %s (%s)\n", "fetch", what, size(n))
		},
	}), nil
}

func (f *flags) openCache() (*cache.Cache, error) {
	dir := f.cache
	if dir == "" {
		var err error
		if dir, err = cache.DefaultDir(); err != nil {
			return nil, err
		}
	}
	return cache.Open(dir)
}

func printUpdated(cmd *cobra.Command, updated []lock.Updated) error {
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	for _, u := range updated {
		switch {
		case !u.Written:
			fmt.Fprintf(w, "%s\tunchanged\n", u.Component)
		case len(u.Changes) == 0:
			fmt.Fprintf(w, "%s\twritten: no pin changed\n", u.Component)
		default:
			fmt.Fprintf(w, "%s\twritten:\n", u.Component)
			for _, c := range u.Changes {
				fmt.Fprintf(w, "\t%s\n", strings.TrimSpace(c.String()))
			}
		}
	}
	return w.Flush()
}
