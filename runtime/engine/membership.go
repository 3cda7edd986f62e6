package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/k3s-io/k3s/pkg/cli/cmds"

	"github.com/rancher/rke2/runtime/config"
	"github.com/rancher/rke2/runtime/durable"
)

const (
	// membershipPoll is how often etcd's log is looked at.
	membershipPoll = 5 * time.Second
	// podLogs is where the kubelet has its pods' logs.
	podLogs = "/var/log/pods"
	// logEnd is how much of the end of etcd's log is looked at: it says little once
	// it is no member any more, because it ends.
	logEnd = 64 << 10
)

// expelled are the words with which etcd says that it is no member of its cluster any
// more. It ends with them, and would with every start.
var expelled = []string{
	"the member has been permanently removed from the cluster",
	"data-dir used by this member must be removed",
}

// removedMark is the file, beside etcd's data, that says that etcd is no member any
// more; tombstone is the engine's own, on which it moves the data away and joins anew.
func removedMark(dataDir string) string { return filepath.Join(etcdDir(dataDir), "removed") }
func tombstone(dataDir string) string   { return filepath.Join(etcdDir(dataDir), "tombstone") }

// etcdDir is where a server's etcd keeps its data.
func etcdDir(dataDir string) string { return filepath.Join(dataDir, "server", "db", "etcd") }

// checkMembership lets a server that was removed from its cluster join again, if it
// knows another server to join through. If not, it would wait for ever for an etcd that
// cannot start: it says what to do.
func checkMembership(c config.Config) error {
	if c.Role != config.Server {
		return nil
	}
	mark := removedMark(c.DataDir)
	if _, err := os.Stat(mark); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	switch {
	case cmds.ServerConfig.ClusterReset:
		return os.Remove(mark)
	case cmds.ServerConfig.ServerURL == "":
		return &RemovedError{Folder: filepath.Dir(mark)}
	}
	return os.Rename(mark, tombstone(c.DataDir))
}

// RemovedError is a server whose etcd is no member of its cluster any more, because its
// node was deleted.
type RemovedError struct {
	Folder string // etcd's data
	Server string // what it would join again through; empty if that is not known
}

func (e *RemovedError) Error() string {
	text := fmt.Sprintf("this server was removed from its cluster (its node was deleted): etcd with the data in %s is no member any more.", e.Folder)
	if e.Server != "" {
		return text + fmt.Sprintf(" Started again, it moves that data aside and joins anew through %s; if it is not to come back, uninstall it", e.Server)
	}
	return text + " To let it join again, set `server: https://ANOTHER-SERVER:9345` and the cluster's token in its configuration file and start it:" +
		" that data is then moved aside. To make a cluster of its own of that data, run `rke2 server --cluster-reset`"
}

// watchMembership ends the node when its etcd says that it was removed, and leaves a
// mark for the next start.
func (e *Executor) watchMembership(ctx context.Context) {
	started := time.Now()
	pattern := filepath.Join(podLogs, "kube-system_etcd-"+e.node.AgentConfig.NodeName+"_*", "etcd", "*.log")
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(membershipPoll):
		}
		said, err := saidSince(pattern, started, expelled)
		if err != nil {
			e.log.Debug("cannot read etcd's log", "error", err)
		}
		if !said {
			continue
		}
		mark := removedMark(e.config.DataDir)
		err = &RemovedError{Folder: filepath.Dir(mark), Server: cmds.ServerConfig.ServerURL}
		e.fail(errors.Join(err, durable.WriteFile(mark, nil, 0o600)))
		return
	}
}

// saidSince looks for a line with one of the words, not older than since, near the end
// of the logs that match. Lines start with their time (the log format of the CRI).
func saidSince(pattern string, since time.Time, words []string) (bool, error) {
	files, err := filepath.Glob(pattern)
	if err != nil {
		return false, err
	}
	var errs []error
	for _, file := range files {
		end, err := lastOf(file, since)
		errs = append(errs, err)
		for line := range strings.Lines(end) {
			stamp, text, _ := strings.Cut(line, " ")
			at, err := time.Parse(time.RFC3339Nano, stamp)
			if err != nil || at.Before(since) {
				continue
			}
			for _, word := range words {
				if strings.Contains(text, word) {
					return true, nil
				}
			}
		}
	}
	return false, errors.Join(errs...)
}

// lastOf reads the end of a file that was written to since, else nothing.
func lastOf(file string, since time.Time) (string, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil // the kubelet turns logs
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.ModTime().Before(since) {
		return "", err
	}
	if _, err := f.Seek(max(0, info.Size()-logEnd), io.SeekStart); err != nil {
		return "", err
	}
	b, err := io.ReadAll(io.LimitReader(f, logEnd))
	return string(b), err
}
