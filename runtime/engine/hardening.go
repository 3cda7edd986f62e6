package engine

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/k3s-io/k3s/pkg/cli/cmds"
	"github.com/k3s-io/k3s/pkg/daemons/executor"
	"github.com/urfave/cli/v2"

	"github.com/rancher/rke2/runtime/cis"
	"github.com/rancher/rke2/runtime/config"
)

// auditLog is below the data folder; the API server rotates it.
const auditLog = "server/logs/audit.log"

// harden turns the settings of c about security into the engine's. What the
// operator says in kube-apiserver-arg stays.
func harden(c config.Config) {
	if c.Profile == cis.CIS {
		cmds.AgentConfig.ProtectKernelDefaults = true
	}
	cmds.ServerConfig.ExtraAPIArgs = *cli.NewStringSlice(apiServerArgs(c, cmds.ServerConfig.ExtraAPIArgs.Value())...)
}

// apiServerArgs are the operator's arguments and those that c's policies need.
func apiServerArgs(c config.Config, theirs []string) []string {
	var ours [][2]string
	if c.AuditPolicyFile != "" {
		ours = append(ours,
			[2]string{"audit-policy-file", c.AuditPolicyFile},
			[2]string{"audit-log-path", filepath.Join(c.DataDir, auditLog)},
			// What the benchmark asks for at least: days, files, megabytes.
			[2]string{"audit-log-maxage", "30"},
			[2]string{"audit-log-maxbackup", "10"},
			[2]string{"audit-log-maxsize", "100"})
	}
	if c.PodSecurityFile != "" {
		ours = append(ours, [2]string{"admission-control-config-file", c.PodSecurityFile})
	}
	args := slices.Clone(theirs)
	for _, arg := range ours {
		given := slices.ContainsFunc(theirs, func(a string) bool {
			name, _, _ := strings.Cut(strings.TrimPrefix(a, "--"), "=")
			return strings.TrimRight(name, "+-") == arg[0]
		})
		if !given {
			args = append(args, arg[0]+"="+arg[1])
		}
	}
	return args
}

// policyFiles makes sure that the files which the API server is told of are there:
// the profile's own are written once, the operator's must exist.
func (e *Executor) policyFiles() error {
	for _, f := range []struct{ option, path, ours, content string }{
		{"audit-policy-file", e.config.AuditPolicyFile, cis.AuditPolicyFile, cis.AuditPolicy},
		{"pod-security-admission-config-file", e.config.PodSecurityFile, cis.PodSecurityFile, cis.PodSecurity},
	} {
		if f.path == "" {
			continue
		}
		if f.path == f.ours && e.config.Profile == cis.CIS {
			if err := cis.EnsureFile(f.path, f.content); err != nil {
				return fmt.Errorf("writing the profile's %s: %w", f.path, err)
			}
		}
		if _, err := os.Stat(f.path); err != nil {
			return fmt.Errorf("%s: %w", f.option, err)
		}
	}
	return nil
}

// etcdOwns gives etcd's files to its own user where the profile asks for one, and
// returns user and group; nil: etcd runs as root. The engine writes new files as root
// at each start, before this is called.
func (e *Executor) etcdOwns(args *executor.ETCDConfig) (user, group *int64, err error) {
	if e.config.Profile != cis.CIS && e.config.Profile != cis.Etcd {
		return nil, nil, nil
	}
	uid, gid, err := cis.Account("/")
	if err != nil {
		return nil, nil, fmt.Errorf("profile %s: %w", e.config.Profile, err)
	}
	tls := filepath.Join(e.serverDir(), "tls", "etcd")
	// What is in it is for etcd by name only; the CA's keys stay root's.
	if err := os.Chmod(tls, 0o711); err != nil {
		return nil, nil, fmt.Errorf("profile %s: %w", e.config.Profile, err)
	}
	paths := []string{
		args.DataDir,
		args.ServerTrust.CertFile, args.ServerTrust.KeyFile, args.ServerTrust.TrustedCAFile,
		args.PeerTrust.CertFile, args.PeerTrust.KeyFile, args.PeerTrust.TrustedCAFile,
	}
	if err := cis.Own(uid, gid, paths...); err != nil {
		return nil, nil, fmt.Errorf("profile %s: %w", e.config.Profile, err)
	}
	u, g := int64(uid), int64(gid)
	return &u, &g, nil
}

// hardenCluster applies the profile's objects to the cluster when its API is up.
func (e *Executor) hardenCluster(ctx context.Context) {
	if e.config.Profile != cis.CIS || e.config.Role != config.Server {
		return
	}
	e.goWith(ctx, func(ctx context.Context) {
		if wait(ctx, e.apiServerReady) != nil {
			return
		}
		err := retry(ctx, e.log, time.Second, func(ctx context.Context) error {
			client, err := e.supervisor()
			if err != nil {
				return err
			}
			return cis.Apply(ctx, client)
		}, "waiting to apply the profile's policies")
		if err == nil {
			e.log.Info("the namespaces of the cluster have their policies", "profile", e.config.Profile)
		}
	})
}

// boundTo is the address that a component's arguments bind it to, which is a loopback
// address of the cluster's first IP family unless the operator says otherwise.
func boundTo(args []string) string {
	address := "127.0.0.1"
	for _, arg := range args {
		if value, ok := strings.CutPrefix(arg, "--bind-address="); ok {
			address = value
		}
	}
	switch address {
	case "", "0.0.0.0":
		return "127.0.0.1"
	case "::":
		return "::1"
	}
	return address
}

// firstHost is the host of the first of a comma-separated list of URLs.
func firstHost(urls string) string {
	first, _, _ := strings.Cut(urls, ",")
	if u, err := url.Parse(first); err == nil && u.Hostname() != "" {
		return u.Hostname()
	}
	return "127.0.0.1"
}
