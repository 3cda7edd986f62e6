package main

import (
	"errors"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/rancher/rke2/runtime/config"
	"github.com/rancher/rke2/runtime/engine"
)

// completeOptions offers the words that an option takes, and folders where it takes one.
func completeOptions(cmd *cobra.Command, flags []engine.Flag) {
	for _, f := range flags {
		if f.Folder {
			_ = cmd.MarkFlagDirname(f.Name) // it fails for a flag that is not declared
		}
		if len(f.Values) > 0 {
			_ = cmd.RegisterFlagCompletionFunc(f.Name, cobra.FixedCompletions(slices.Clone(f.Values), cobra.ShellCompDirectiveNoFileComp))
		}
	}
}

// explainOptions makes an option that a role has not an error that says what was meant.
func explainOptions(cmd *cobra.Command, role config.Role) {
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		var unknown *pflag.NotExistError
		if errors.As(err, &unknown) && len(unknown.GetSpecifiedName()) > 1 {
			return engine.Unknown(role, strings.TrimLeft(unknown.GetSpecifiedName(), "-"))
		}
		return err
	})
}
