package node

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/rancher/rke2/runtime/timeline"
)

func TestKindOfStart(t *testing.T) {
	data, tasks := t.TempDir(), t.TempDir()
	expect := func(want timeline.Kind) {
		t.Helper()
		if got := kindOfStart(data, tasks); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	expect(timeline.Cold)
	if err := os.MkdirAll(filepath.Join(data, "agent", "containerd"), 0o755); err != nil {
		t.Fatal(err)
	}
	expect(timeline.Reboot)
	task := filepath.Join(tasks, "k8s.io", "c0ffee")
	if err := os.MkdirAll(task, 0o755); err != nil {
		t.Fatal(err)
	}
	pid := func(n int) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(task, "init.pid"), []byte(strconv.Itoa(n)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	pid(1 << 30) // more than there can be
	expect(timeline.Reboot)
	pid(os.Getpid())
	expect(timeline.Restart)
}

func TestSystemdStatus(t *testing.T) {
	if systemdStatus("") != nil {
		t.Error("something is told to nobody")
	}
	path := filepath.Join(t.TempDir(), "notify")
	listener, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	systemdStatus(path)("waiting for\netcd")
	if err := listener.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	n, err := listener.Read(buf)
	if err != nil || string(buf[:n]) != "STATUS=waiting for etcd" {
		t.Errorf("%q, %v", buf[:n], err)
	}
	systemdStatus(path + "-gone")("nobody hears it")
}
