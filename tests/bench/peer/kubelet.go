package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/k3s-io/k3s/pkg/agent/containerd"
	daemonconfig "github.com/k3s-io/k3s/pkg/daemons/config"
	"github.com/rancher/wharfie/pkg/extract"
	"github.com/rancher/wharfie/pkg/tarfile"

	"github.com/rancher/rke2/runtime/config"
)

// binFolder is where the runtime image's programs are staged.
func (p *pods) binFolder() (string, error) {
	reference, err := p.image(config.RoleRuntime)
	if err != nil {
		return "", err
	}
	tag, err := name.NewTag(reference)
	if err != nil {
		return "", err
	}
	return filepath.Join(dataDir, "data", tag.TagStr(), "bin"), nil
}

// stage takes the runtime image's programs out of an archive, unless they are there.
func (p *pods) stage() error {
	if _, err := os.Stat(p.bin); err == nil {
		return nil
	}
	reference, err := p.image(config.RoleRuntime)
	if err != nil {
		return err
	}
	tag, err := name.NewTag(reference)
	if err != nil {
		return err
	}
	image, err := tarfile.FindImage(filepath.Join(dataDir, "agent", "images"), tag)
	if err != nil {
		return err
	}
	if err := extract.ExtractDirs(image, map[string]string{"/bin": p.bin}); err != nil {
		return err
	}
	link := filepath.Join(dataDir, "bin")
	_ = os.RemoveAll(link)
	return os.Symlink(p.bin, link)
}

// Containerd is K3s's, which imports all archives before it is said to be ready.
func (p *pods) Containerd(ctx context.Context, node *daemonconfig.Node) error {
	<-p.staged
	if p.facts.NoSysResource {
		if err := restrictOOMScore(node.Containerd.Config); err != nil {
			return err
		}
	}
	if err := containerd.Run(ctx, node); err != nil {
		return err
	}
	close(p.criReady)
	return nil
}

// restrictOOMScore lets containers start on a host without CAP_SYS_RESOURCE.
func restrictOOMScore(file string) error {
	raw, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	table := []byte("[plugins.'io.containerd.cri.v1.runtime']\n")
	adapted := bytes.Replace(raw, table, append(table, "  restrict_oom_score_adj = true\n"...), 1)
	return os.WriteFile(file, adapted, 0o600)
}

// Kubelet runs with RKE2's settings, and again 5 s after it ended.
func (p *pods) Kubelet(ctx context.Context, args []string) error {
	args = append([]string{"--volume-plugin-dir=/var/lib/kubelet/volumeplugins", "--file-check-frequency=5s", "--sync-frequency=30s"}, args...)
	if p.facts.CgroupV1 {
		args = append(args, "--fail-cgroupv1=false")
	}
	log, err := os.OpenFile(filepath.Join(dataDir, "agent", "logs-kubelet.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	go func() {
		for ctx.Err() == nil {
			cmd := exec.CommandContext(ctx, filepath.Join(p.bin, "kubelet"), args...)
			cmd.Stdout, cmd.Stderr = log, log
			cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
			cmd.Env = withoutNotify(os.Environ())
			_ = cmd.Run()
			select {
			case <-ctx.Done():
			case <-time.After(5 * time.Second):
			}
		}
		_ = log.Close()
	}()
	return nil
}

func withoutNotify(environ []string) []string {
	var env []string
	for _, pair := range environ {
		if !strings.HasPrefix(pair, "NOTIFY_SOCKET=") {
			env = append(env, pair)
		}
	}
	return env
}
