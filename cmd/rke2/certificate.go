package main

import "github.com/spf13/cobra"

// newCertificateCommand is `rke2 certificate`.
func newCertificateCommand() *cobra.Command {
	return engineGroup("certificate", "Check and rotate the certificates of this node and of the cluster",
		`Certificates of components are valid for a year, and renewed at a node's start when
fewer than 120 days are left. Those of the authorities are valid for ten years.`,
		`  rke2 certificate check -o table
  systemctl stop rke2-server && rke2 certificate rotate && systemctl start rke2-server`,
		engineCommand{
			path: "certificate check", short: "Show until when this node's certificates are valid",
			long: `Reads the files in the data directory; nothing need run. Of a server its agent's
certificates are shown too. The log format (-o text) warns of what ends within 120
days; -o table, json and yaml print all.`,
			example: `  rke2 certificate check
  rke2 certificate check -o table --service kubelet --service etcd
  rke2 certificate check -o json`,
		},
		engineCommand{
			path: "certificate rotate", short: "Have this node's certificates made anew at its next start",
			long: `Moves the certificates away (a copy stays in <data-dir>/server/tls-TIME or
<data-dir>/agent/tls-TIME): the next start makes new ones, signed by the same
authorities, and restarts those static pods that use them. Stop the node first;
workloads keep running. Servers one after the other, then agents.`,
			example: `  systemctl stop rke2-server
  rke2 certificate rotate
  systemctl start rke2-server

  # some only
  rke2 certificate rotate --service api-server --service kubelet`,
		},
		engineCommand{
			path: "certificate rotate-ca", short: "Give the cluster new certificate authorities",
			long: `The folder given by --path, or tls in it, has the new authorities' certificates and
keys under the names that they have in <data-dir>/server/tls (server-ca.crt,
server-ca.key, client-ca.crt, …, etcd/server-ca.crt, …, service.key). What is not
there, or is the same, stays as it is; what is new is named. It is checked that the
new ones are trusted by way of the old ones (cross-signed), so that nodes and
workloads go on; --force leaves the check out, and then all nodes must join anew.
The new ones are in the datastore when the command ends; they are used from the
next start of each node: restart the servers one after the other, then the agents.`,
			example: `  cp -a /var/lib/rancher/rke2/server/tls /root/new-ca    # and replace what is to be new
  rke2 certificate rotate-ca --path /root/new-ca`,
		},
	)
}
