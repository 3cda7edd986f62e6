package main

import "github.com/spf13/cobra"

// newSecretsEncryptCommand is `rke2 secrets-encrypt`.
func newSecretsEncryptCommand() *cobra.Command {
	return engineGroup("secrets-encrypt", "See to the key that Secrets are encrypted with in etcd",
		`Two ways change the key. With one server, without any restart:

  rke2 secrets-encrypt rotate-keys

With several, in three steps, each followed by a restart of all servers, one after the
other, so that all of them can read all Secrets all the time:

  rke2 secrets-encrypt prepare       # a new key, that can only decrypt
  rke2 secrets-encrypt rotate        # the new key encrypts, the old one decrypts
  rke2 secrets-encrypt reencrypt     # every Secret is written again; the old key goes

`+"`status`"+` says which step the cluster is at, and whether all servers have the same
keys. Take a snapshot first (rke2 etcd-snapshot save).`,
		`  rke2 secrets-encrypt status
  rke2 secrets-encrypt rotate-keys`,
		engineCommand{
			path: "secrets-encrypt status", short: "Show whether Secrets are encrypted, with which keys, and the step of a rotation",
			long:    "The hashes tell whether all servers use the same keys: no step may be taken while they differ.",
			example: "  rke2 secrets-encrypt status\n  rke2 secrets-encrypt status -o json",
		},
		engineCommand{
			path: "secrets-encrypt enable", short: "Encrypt Secrets in etcd, after they were not",
			long: `Secrets are encrypted unless the configuration says secrets-encryption: false. What is
there already is written again. Restart the other servers afterwards.`,
			example: "  rke2 secrets-encrypt enable",
		},
		engineCommand{
			path: "secrets-encrypt disable", short: "Keep Secrets in the clear in etcd",
			long: `What is there already is written again, in the clear. The keys are kept. Restart the
other servers afterwards.`,
			example: "  rke2 secrets-encrypt disable",
		},
		engineCommand{
			path: "secrets-encrypt prepare", short: "First step: add a new key that can only decrypt",
			long:    "Restart all servers afterwards, one after the other, then take the step rotate.",
			example: "  rke2 secrets-encrypt prepare",
		},
		engineCommand{
			path: "secrets-encrypt rotate", short: "Second step: encrypt with the new key",
			long:    "Restart all servers afterwards, one after the other, then take the step reencrypt.",
			example: "  rke2 secrets-encrypt rotate",
		},
		engineCommand{
			path: "secrets-encrypt reencrypt", short: "Third step: write every Secret again, and drop the old key",
			long: `Runs in the server, in the background: ` + "`status`" + ` and the events of the node tell when
it has finished. Restart all servers afterwards.`,
			example: "  rke2 secrets-encrypt reencrypt\n  rke2 secrets-encrypt status",
		},
		engineCommand{
			path: "secrets-encrypt rotate-keys", short: "All at once: a new key, every Secret written again, the old key dropped",
			long: `This server is not restarted. The command returns when the last Secret is written: after
a minute or two, for the API server looks for new keys once a minute. Other servers
cannot read Secrets from then on until they are restarted: with several servers take
the three steps instead.`,
			example: "  rke2 secrets-encrypt rotate-keys",
		},
	)
}
