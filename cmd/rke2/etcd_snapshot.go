package main

import "github.com/spf13/cobra"

// newEtcdSnapshotCommand is `rke2 etcd-snapshot`.
func newEtcdSnapshotCommand() *cobra.Command {
	return engineGroup("etcd-snapshot", "Save, list and remove snapshots of the cluster's data",
		`A snapshot is a file with everything in etcd at one moment. Servers take one every
twelve hours by themselves (etcd-snapshot-schedule-cron) and keep five. A cluster is
set back to one with

  rke2 server --cluster-reset --cluster-reset-restore-path=FILE

on one server, after rke2 was stopped there and all servers but that one are off or
were cleared with rke2-killall.sh: their etcd would go on as the old cluster. The others
come back when <data-dir>/server/db is removed there.

Keep the server token with it (<data-dir>/server/token): what is encrypted in a
snapshot is useless without. The commands talk to the server on this host and need
its root; options about where and how are read from its configuration file.`,
		`  rke2 etcd-snapshot save --name before-upgrade
  rke2 etcd-snapshot list
  rke2 etcd-snapshot prune --name before-upgrade --snapshot-retention 3`,
		engineCommand{
			path: "etcd-snapshot save", short: "Take a snapshot now",
			long: `The file is written by this server, to <data-dir>/server/db/snapshots or --dir, named
NAME-NODE-TIME. No older snapshot is removed.`,
			example: `  rke2 etcd-snapshot save
  rke2 etcd-snapshot save --name before-upgrade --snapshot-compress`,
		},
		engineCommand{
			path: "etcd-snapshot ls", aliases: []string{"list", "l"}, short: "List the snapshots of all servers",
			long: `Shown are name, place, size in bytes and time of each snapshot that the cluster knows:
those on the servers' disks, and those on S3 if that is configured.`,
			example: `  rke2 etcd-snapshot list
  rke2 etcd-snapshot list -o json`,
		},
		engineCommand{
			path: "etcd-snapshot delete", use: "NAME...", short: "Remove snapshots by name", args: cobra.MinimumNArgs(1),
			long:    "The names are those that `rke2 etcd-snapshot list` shows, not paths.",
			example: `  rke2 etcd-snapshot delete before-upgrade-server-1-1764000000`,
		},
		engineCommand{
			path: "etcd-snapshot prune", short: "Remove all but the newest snapshots of a name",
			long: `Of the snapshots on this server whose name starts with --name, the newest
--snapshot-retention stay.`,
			example: `  rke2 etcd-snapshot prune --snapshot-retention 3
  rke2 etcd-snapshot prune --name before-upgrade --snapshot-retention 1`,
		},
	)
}
