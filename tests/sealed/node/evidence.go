//go:build linux

package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rancher/rke2/tests/sealed"
)

// Containers describes every container of every pod: which it is, how often it
// was restarted, and the process that it is. What has the same description at two
// moments was not touched between them.
func (n *Node) Containers(ctx context.Context) (map[string]string, error) {
	c, err := n.Client()
	if err != nil {
		return nil, err
	}
	pods, err := c.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	found := map[string]string{}
	for _, p := range pods.Items {
		for _, s := range p.Status.ContainerStatuses {
			found[p.Namespace+"/"+p.Name+"/"+s.Name] = fmt.Sprintf("%s restarted %d times", s.ContainerID, s.RestartCount)
		}
	}
	if len(found) == 0 {
		return nil, errors.New("the API shows no container")
	}
	processes, err := n.ContainerProcesses()
	for _, p := range processes {
		found[fmt.Sprintf("process %d", p.Pid)] = fmt.Sprintf("%s started %d", strings.Join(p.Args, " "), p.Started)
	}
	return found, err
}

// shim is the program that stays with a container whatever happens to rke2.
const shim = "containerd-shim-runc-v2"

// ContainerProcesses are the shims and all that runs under them.
func (n *Node) ContainerProcesses() ([]sealed.Process, error) {
	return n.split(true)
}

// OtherProcesses are those that are in no container and no shim.
func (n *Node) OtherProcesses() ([]sealed.Process, error) {
	return n.split(false)
}

func (n *Node) split(contained bool) ([]sealed.Process, error) {
	all, err := n.Processes()
	if err != nil {
		return nil, err
	}
	byPid := map[int]sealed.Process{}
	for _, p := range all {
		byPid[p.Pid] = p
	}
	var found []sealed.Process
	for _, p := range all {
		in := false
		for up, ok := p, true; ok; up, ok = byPid[up.Parent] {
			// The kernel's name, cut at 15 bytes: arguments may be anything.
			if up.Name == shim[:15] {
				in = true
				break
			}
		}
		if in == contained {
			found = append(found, p)
		}
	}
	return found, nil
}

// Listing describes every file below a path of the host: kind, mode, size, and
// the time and inode that tell if it was written again. It follows no link. A
// path that is not there has an empty listing.
func (n *Node) Listing(path string) (map[string]string, error) {
	root := n.Path(path)
	found := map[string]string{}
	err := filepath.WalkDir(root, func(at string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, at)
		if err != nil {
			return err
		}
		text := info.Mode().String()
		if info.Mode().IsRegular() {
			text += fmt.Sprintf(" %d bytes %s", info.Size(), info.ModTime().UTC().Format(time.RFC3339Nano))
		}
		found[name] = text
		return nil
	})
	return found, err
}

// Difference lists, sorted, what changed between two descriptions.
func Difference(before, after map[string]string) []string {
	var lines []string
	for k, b := range before {
		if a, ok := after[k]; !ok {
			lines = append(lines, "- "+k+": "+b)
		} else if a != b {
			lines = append(lines, "! "+k+": "+b+" → "+a)
		}
	}
	for k, a := range after {
		if _, ok := before[k]; !ok {
			lines = append(lines, "+ "+k+": "+a)
		}
	}
	slices.SortFunc(lines, func(a, b string) int { return strings.Compare(a[2:]+a, b[2:]+b) })
	return lines
}

// maxLog bounds what is kept of one log: its end.
const maxLog = 8 << 20

// Collect copies the host's, rke2's, containerd's, the kubelet's and the pods'
// logs to dir, and what the API says of nodes and pods.
func (n *Node) Collect(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	errs := []error{
		copyLogs(filepath.Join(n.State(), "logs"), filepath.Join(dir, "host")),
		copyLogs(n.Disk("/var/log"), filepath.Join(dir, "var-log")),
		copyLogs(n.Disk(DataDir+"/agent"), filepath.Join(dir, "agent")),
	}
	if n.Init() == 0 {
		return errors.Join(errs...)
	}
	for name, args := range map[string][]string{
		"processes": {"ps", "-efww"},
		"mounts":    {"findmnt", "--list"},
		"pods":      {kubectl, "get", "nodes,pods", "-A", "-o", "yaml", "--request-timeout=5s"},
		"events":    {kubectl, "get", "events", "-A", "--request-timeout=5s"},
	} {
		out, err := n.Command(ctx, args[0], args[1:]...).CombinedOutput()
		if err != nil {
			out = append(out, err.Error()...)
		}
		errs = append(errs, os.WriteFile(filepath.Join(dir, name+".txt"), out, 0o644))
	}
	return errors.Join(errs...)
}

// copyLogs copies the *.log files below from. Links are left: they point to
// other logs.
func copyLogs(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if d.IsDir() && strings.HasPrefix(d.Name(), "io.containerd.") {
			return fs.SkipDir // images and containers
		}
		if !d.Type().IsRegular() || filepath.Ext(path) != ".log" {
			return nil
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		return copyEnd(path, filepath.Join(to, rel))
	})
}

func copyEnd(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	if _, err := in.Seek(max(0, info.Size()-maxLog), io.SeekStart); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
