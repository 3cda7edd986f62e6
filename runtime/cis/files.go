package cis

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/rancher/rke2/runtime/durable"
)

// Where the policies are unless the operator names other files. They are the
// operator's to change: what is there is never overwritten.
const (
	AuditPolicyFile = "/etc/rancher/rke2/audit-policy.yaml"
	PodSecurityFile = "/etc/rancher/rke2/rke2-pss.yaml"
)

// AuditPolicy is a policy (audit.k8s.io/v1) that records who did what to which
// object, never what is in secrets, and leaves out what says nothing.
const AuditPolicy = `# Written by rke2 for profile: cis. Yours to change: it is not overwritten.
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages:
- RequestReceived
rules:
# Probes and discovery.
- level: None
  nonResourceURLs: ["/healthz*", "/livez*", "/readyz*", "/version", "/openapi*"]
# Heartbeats of nodes and leaders.
- level: None
  resources:
  - group: coordination.k8s.io
    resources: [leases]
- level: None
  resources:
  - group: ""
    resources: [events]
  - group: events.k8s.io
# What goes into a container from outside.
- level: Request
  resources:
  - group: ""
    resources: [pods/exec, pods/attach, pods/portforward, pods/proxy, services/proxy, nodes/proxy]
# Who may do what.
- level: RequestResponse
  verbs: [create, update, patch, delete, deletecollection]
  resources:
  - group: rbac.authorization.k8s.io
- level: Metadata
`

// PodSecurity is a configuration (apiserver.config.k8s.io/v1) that holds pods to the
// restricted Pod Security Standard, but for the cluster's own namespaces.
const PodSecurity = `# Written by rke2 for profile: cis. Yours to change: it is not overwritten.
apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
- name: PodSecurity
  configuration:
    apiVersion: pod-security.admission.config.k8s.io/v1
    kind: PodSecurityConfiguration
    defaults:
      enforce: restricted
      enforce-version: latest
      audit: restricted
      audit-version: latest
      warn: restricted
      warn-version: latest
    exemptions:
      usernames: []
      runtimeClasses: []
      namespaces: [kube-system, cis-operator-system, tigera-operator]
`

// EnsureFile writes content to a file that is not there, readable by root only.
func EnsureFile(file, content string) error {
	_, err := os.Stat(file)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return durable.WriteFile(file, []byte(content), 0o600)
}

// Own gives paths, and what is below them, to a user and group, and takes what others
// may do there away. Links are not followed.
func Own(user, group int, paths ...string) error {
	for _, root := range paths {
		err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if err == nil {
				err = own(path, entry, user, group)
			}
			if errors.Is(err, fs.ErrNotExist) && path != root {
				return nil // a running etcd renames and removes files
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("giving %s to the user of etcd: %w", root, err)
		}
	}
	return nil
}

func own(path string, entry fs.DirEntry, user, group int) error {
	if err := os.Lchown(path, user, group); err != nil {
		return err
	}
	info, err := entry.Info()
	if err != nil || info.Mode()&fs.ModeSymlink != 0 {
		return err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return os.Chmod(path, mode&^0o077)
	}
	return nil
}
