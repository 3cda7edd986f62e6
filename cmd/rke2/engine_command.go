package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/rancher/rke2/runtime/engine"
)

// engineCommand is one of the engine's own commands, as `rke2 help` shows it.
type engineCommand struct {
	path    string // "GROUP NAME"
	use     string // what comes after the name
	aliases []string
	short   string
	long    string // after short
	example string
	args    cobra.PositionalArgs // nil: none
}

// engineGroup is a command that has nothing but engine's commands below it.
func engineGroup(name, short, long, example string, below ...engineCommand) *cobra.Command {
	cmd := &cobra.Command{Use: name, Short: short, Long: short + ".\n\n" + long, Example: example}
	for _, b := range below {
		cmd.AddCommand(b.command())
	}
	return cmd
}

func (c engineCommand) command() *cobra.Command {
	_, name, _ := strings.Cut(c.path, " ")
	cmd := &cobra.Command{
		Use: strings.TrimSpace(name + " " + c.use), Aliases: c.aliases,
		Short: c.short, Long: c.short + ".\n\n" + c.long, Example: c.example,
		Args: c.args,
		RunE: func(cmd *cobra.Command, args []string) error {
			return engine.RunSubcommand(c.path, append(givenArgs(cmd), args...))
		},
	}
	if cmd.Args == nil {
		cmd.Args = cobra.NoArgs
	}
	flags, err := engine.SubcommandFlags(c.path)
	if err != nil {
		cmd.RunE = func(*cobra.Command, []string) error { return err }
		return cmd
	}
	for i, f := range flags {
		_, flags[i].Usage = section(f.Usage)
		if f.Name == "output" && !strings.Contains(f.Usage, ":") {
			flags[i].Usage = "Format of the output: text, json or yaml"
		}
	}
	declare(cmd, flags)
	return cmd
}
