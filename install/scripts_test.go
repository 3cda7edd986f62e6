//go:build linux

package install

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// tool is a program that hack/prerequisites installs.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%v: run hack/prerequisites", err)
	}
	return path
}

func TestShellcheck(t *testing.T) {
	dir := t.TempDir()
	public, err := newKey(t).Public()
	if err != nil {
		t.Fatal(err)
	}
	script, err := Script(public)
	if err != nil {
		t.Fatal(err)
	}
	released := filepath.Join(dir, scriptName)
	if err := os.WriteFile(released, script, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{scriptName, "rke2-killall.sh", "rke2-uninstall.sh", released} {
		if out, err := exec.Command(tool(t, "shellcheck"), "--shell=sh", file).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", file, err, out)
		}
		for _, shell := range [][]string{{"dash"}, {"busybox", "sh"}} {
			if out, err := exec.Command(tool(t, shell[0]), append(shell[1:], "-n", file)...).CombinedOutput(); err != nil {
				t.Errorf("%s: %s: %v\n%s", shell, file, err, out)
			}
		}
	}
}

func TestScriptRefusesWhatIsNoKey(t *testing.T) {
	for _, key := range []string{"", "hello", "-----BEGIN PRIVATE KEY-----\n", "-----BEGIN PUBLIC KEY-----\n'; rm -rf /; '"} {
		if _, err := Script([]byte(key)); err == nil {
			t.Errorf("%q is taken for a key", key)
		}
	}
}

// systemd takes the units as they are, and says what it would not understand.
func TestUnits(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "rke2")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	verify := func(units map[string]string) (string, error) {
		var files []string
		for name, text := range units {
			file := filepath.Join(dir, name)
			// systemd looks whether the programs are there.
			text = strings.NewReplacer("/usr/local/bin/rke2 ", program+" ", "/sbin/modprobe", "/bin/true").Replace(text)
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			files = append(files, file)
		}
		cmd := exec.Command(tool(t, "systemd-analyze"), append([]string{"verify", "--man=no", "--recursive-errors=no"}, files...)...)
		cmd.Env = append(os.Environ(), "SYSTEMD_LOG_TARGET=console")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	units := map[string]string{"rke2-server.service": string(serverUnit), "rke2-agent.service": string(agentUnit)}
	if out, err := verify(units); err != nil || strings.TrimSpace(out) != "" {
		t.Errorf("systemd says: %v\n%s", err, out)
	}
	// It would say so if something were wrong.
	units["rke2-server.service"] = strings.Replace(string(serverUnit), "KillMode=process", "KillMode=sometimes", 1)
	if out, err := verify(units); err == nil && !strings.Contains(out, "KillMode") {
		t.Errorf("systemd takes any KillMode: %s", out)
	}
	for name, text := range map[string]string{"server": string(serverUnit), "agent": string(agentUnit)} {
		for _, want := range []string{
			"Type=notify", "KillMode=process", "Delegate=yes", "TasksMax=infinity", "LimitNOFILE=1048576", "LimitNPROC=infinity", "LimitCORE=infinity",
			"TimeoutStartSec=0", "Restart=always", "ExecStart=/usr/local/bin/rke2 " + name, "EnvironmentFile=-/etc/default/%N", "WantedBy=multi-user.target",
		} {
			if !strings.Contains(text, "\n"+want+"\n") {
				t.Errorf("rke2-%s.service has no line %s", name, want)
			}
		}
	}
}
