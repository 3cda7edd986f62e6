// Package install lays the drop-in artifacts of a release out: what operators copy onto
// a host with no network, under the names that RKE2's own installer and its users'
// scripts know. install.sh, which puts them in place there, and the scripts and systemd
// units that the binary's archive carries are beside this file.
package install

import (
	"bytes"
	_ "embed"
	"fmt"
)

var (
	//go:embed install.sh
	installScript []byte
	//go:embed rke2-killall.sh
	killallScript []byte
	//go:embed rke2-uninstall.sh
	uninstallScript []byte
	//go:embed rke2-server.service
	serverUnit []byte
	//go:embed rke2-server.env
	serverEnv []byte
	//go:embed rke2-agent.service
	agentUnit []byte
	//go:embed rke2-agent.env
	agentEnv []byte
	//go:embed rke2-cis-sysctl.conf
	sysctls []byte
)

// noKey is the line of install.sh that a release's key takes the place of.
const noKey = "\nrelease_key=''\n"

// Script is install.sh with a release's public key (PEM) in it: it takes no list of sums
// that is signed by another, unless the operator names another key.
func Script(publicKey []byte) ([]byte, error) {
	key := bytes.TrimSpace(publicKey)
	if !bytes.HasPrefix(key, []byte("-----BEGIN PUBLIC KEY-----")) || bytes.ContainsRune(key, '\'') {
		return nil, fmt.Errorf("writing install.sh: the release's key is not a public key in PEM form")
	}
	if bytes.Count(installScript, []byte(noKey)) != 1 {
		return nil, fmt.Errorf("writing install.sh: it has no single line %q", noKey)
	}
	return bytes.Replace(installScript, []byte(noKey), fmt.Appendf(nil, "\nrelease_key='%s'\n", key), 1), nil
}
