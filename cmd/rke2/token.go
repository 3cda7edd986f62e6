package main

import "github.com/spf13/cobra"

// newTokenCommand is `rke2 token`.
func newTokenCommand() *cobra.Command {
	return engineGroup("token", "Make, list and change the secrets that nodes join with",
		`The server token is in <data-dir>/server/token on every server; it lets servers and
agents join and protects the cluster's keys in etcd and its snapshots. A bootstrap
token lets agents join only, and ends after a time.`,
		`  rke2 token create --ttl 1h --description "rack 7"
  rke2 token rotate --new-token "$(openssl rand -hex 16)"`,
		engineCommand{
			path: "token create", use: "[TOKEN]", short: "Make a bootstrap token, for agents to join with", args: cobra.MaximumNArgs(1),
			long:    "Prints the token, with the hash of the cluster's authority that makes joining safe.",
			example: "  rke2 token create --ttl 1h --description \"rack 7\"",
		},
		engineCommand{
			path: "token delete", use: "TOKEN...", short: "End bootstrap tokens", args: cobra.MinimumNArgs(1),
			long:    "Nodes that have joined stay. A token is given whole or by its id, which `rke2 token list` shows.",
			example: "  rke2 token delete abcdef",
		},
		engineCommand{
			path: "token generate", short: "Print a random token that nothing knows yet",
			long:    "For `rke2 token create`.",
			example: "  rke2 token generate",
		},
		engineCommand{
			path: "token list", short: "List the bootstrap tokens",
			long: `Shown are ids, not secrets, and until when each is good. As JSON or YAML it is a list of
objects with id, description, created, expires (absent: never), usages and groups.`,
			example: "  rke2 token list\n  rke2 token list -o json",
		},
		engineCommand{
			path: "token rotate", short: "Replace the server token",
			long: `The old one is good no more for joining. Without --new-token one is made up; it is in
<data-dir>/server/token then. Put it in the configuration file of every node where
one stands (token:), and restart servers, one after the other, then agents. Keep
the old one: snapshots from before need it.`,
			example: `  rke2 token rotate --new-token "$(openssl rand -hex 16)"
  rke2 token rotate --token OLD --new-token NEW --server https://198.51.100.10:9345`,
		},
	)
}
