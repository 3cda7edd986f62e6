package node

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/rancher/rke2/runtime/config"
	"github.com/rancher/rke2/runtime/stage"
	"github.com/rancher/rke2/runtime/timeline"
)

// newTimeline begins the timeline of this start at the process's own. What the node does
// is told to systemd (sd_notify(3), STATUS=), so that `systemctl status` shows how far a
// long start is; that it is READY is the engine's to say.
func newTimeline(c config.Config) *timeline.Line {
	return timeline.New(kindOfStart(c.DataDir, stage.Host().Shims), timeline.ProcessStarted(), systemdStatus(os.Getenv("NOTIFY_SOCKET")))
}

// kindOfStart tells a first start, one after a reboot and one beside running containers
// apart: by containerd's disk, and by processes that are still there.
func kindOfStart(dataDir, tasks string) timeline.Kind {
	if _, err := os.Stat(filepath.Join(dataDir, "agent", "containerd")); err != nil {
		return timeline.Cold
	}
	pids, _ := filepath.Glob(filepath.Join(tasks, "*", "*", "init.pid"))
	for _, file := range pids {
		raw, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
		if err == nil && pid > 0 && syscall.Kill(pid, 0) == nil {
			return timeline.Restart
		}
	}
	return timeline.Reboot
}

// systemdStatus sends STATUS= to the notification socket of the unit, or is nil if there
// is none. The engine takes the socket's name out of the environment later on, so it is
// kept here. A status that does not arrive is of no consequence.
func systemdStatus(socket string) func(string) {
	if socket == "" {
		return nil
	}
	if socket[0] == '@' { // an abstract one
		socket = "\x00" + socket[1:]
	}
	return func(text string) {
		conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = conn.Write([]byte("STATUS=" + strings.ReplaceAll(text, "\n", " ")))
	}
}
