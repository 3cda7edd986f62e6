// Package cis hardens a node the way the CIS Kubernetes benchmark asks (profile:
// cis): what the host must have, the policies that the API server is started with,
// and the objects that the cluster gets. It reads the host below a root, so that it
// can be asked about one that it does not run on.
package cis

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// The profiles: CIS is the whole benchmark, Etcd only runs etcd as a user of its own.
const (
	CIS  = "cis"
	Etcd = "etcd"
)

// EtcdUser is the user, and the group, that etcd runs as under either profile.
const EtcdUser = "etcd"

// Finding is one thing that a host lacks.
type Finding struct {
	Name string // kernel parameter, or "user etcd"
	Got  string // what was found
	Want string
	ToDo string // the command that mends it
}

func (f Finding) String() string {
	return fmt.Sprintf("%s is %s, must be %s", f.Name, f.Got, f.Want)
}

// parameter is a kernel parameter that the kubelet wants (protect-kernel-defaults).
type parameter struct{ name, want string }

// parameters are all that the kubelet compares; with another value it does not start.
var parameters = []parameter{
	{"vm.overcommit_memory", "1"},
	{"vm.panic_on_oom", "0"},
	{"kernel.panic", "10"},
	{"kernel.panic_on_oops", "1"},
	{"kernel.keys.root_maxkeys", "1000000"},
	{"kernel.keys.root_maxbytes", "25000000"},
}

// Check lists what the host below root ("/" or "" for this one) lacks for a profile;
// nothing for the profile "". Only servers run etcd. Its error is that the host
// could not be read.
func Check(root, profile string, server bool) ([]Finding, error) {
	var found []Finding
	if profile == CIS {
		for _, p := range parameters {
			f, err := p.check(root)
			if err != nil {
				return nil, err
			}
			found = append(found, f...)
		}
	}
	if server && (profile == CIS || profile == Etcd) {
		_, _, err := Account(root)
		var missing *AccountError
		switch {
		case errors.As(err, &missing):
			found = append(found, Finding{Name: missing.what(), Got: "not there", Want: "there", ToDo: missing.ToDo()})
		case err != nil:
			return nil, err
		}
	}
	return found, nil
}

func (p parameter) check(root string) ([]Finding, error) {
	file := filepath.Join("/", root, "proc/sys", strings.ReplaceAll(p.name, ".", "/"))
	got := "not there"
	raw, err := os.ReadFile(file)
	switch {
	case err == nil:
		got = strings.TrimSpace(string(raw))
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("reading the kernel parameter %s: %w", p.name, err)
	}
	if got == p.want {
		return nil, nil
	}
	return []Finding{{
		Name: p.name, Got: got, Want: p.want,
		ToDo: fmt.Sprintf("echo '%s = %s' >> /etc/sysctl.d/60-rke2-cis.conf && sysctl -p /etc/sysctl.d/60-rke2-cis.conf", p.name, p.want),
	}}, nil
}

// Refusal is the error that a node with findings stops with; nil without any.
func Refusal(profile string, findings []Finding) error {
	if len(findings) == 0 {
		return nil
	}
	var b strings.Builder
	fmt.Fprintf(&b, "profile %s: this host is not prepared for it:", profile)
	var todo []string
	for _, f := range findings {
		fmt.Fprintf(&b, "\n  %s", f)
		if !slices.Contains(todo, f.ToDo) {
			todo = append(todo, f.ToDo)
		}
	}
	b.WriteString("\nto mend it:")
	for _, command := range todo {
		fmt.Fprintf(&b, "\n  %s", command)
	}
	return errors.New(b.String())
}

// SELinux is an error if the kernel of the host below root runs without SELinux: with
// the option selinux, containerd would label what nothing enforces.
func SELinux(root string) error {
	_, err := os.Stat(filepath.Join("/", root, "sys/fs/selinux/enforce"))
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("selinux: true, but this host runs without SELinux (/sys/fs/selinux/enforce is not there): enable it and reboot, or remove the option")
	}
	if err != nil {
		return fmt.Errorf("looking for SELinux: %w", err)
	}
	return nil
}
