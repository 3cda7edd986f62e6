package host

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// machine is one whose files are those given, by path; a target for a link begins with ->.
func machine(t *testing.T, files map[string]string) Machine {
	t.Helper()
	root := t.TempDir()
	for path, content := range files {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, ok := strings.CutPrefix(content, "->"); ok {
			err = os.Symlink(target, path)
		} else {
			err = os.WriteFile(path, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return Machine{Root: root}
}

func TestLacks(t *testing.T) {
	for name, c := range map[string]struct {
		status string
		lacks  bool
		fails  string
	}{
		"all":      {status: "Name:\tx\nCapEff:\t000001ffffffffff\n"},
		"none":     {status: "CapEff:\t0000000000000000\n", lacks: true},
		"just it":  {status: "CapEff:\t0000000001000000\n"},
		"all but":  {status: "CapEff:\t000001fffeffffff\n", lacks: true},
		"no line":  {status: "Name:\tx\n", fails: "no CapEff line"},
		"not hex":  {status: "CapEff:\tzz\n", fails: "invalid syntax"},
		"not here": {fails: "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			files := map[string]string{}
			if c.status != "" {
				files["proc/self/status"] = c.status
			}
			lacks, err := machine(t, files).Lacks(CapSysResource)
			if c.fails != "" {
				if err == nil || !strings.Contains(err.Error(), c.fails) {
					t.Errorf("got %v, want %q in it", err, c.fails)
				}
				return
			}
			if err != nil || slices.Contains(lacks, CapSysResource) != c.lacks {
				t.Errorf("got %v, %v, want %v", lacks, err, c.lacks)
			}
		})
	}
	lacks, err := machine(t, map[string]string{"proc/self/status": "CapEff:\t0000000000000001\n"}).Lacks(CapChown, CapNetAdmin, CapSysAdmin)
	if err != nil || !slices.Equal(lacks, []Capability{CapNetAdmin, CapSysAdmin}) || lacks[0].String() != "CAP_NET_ADMIN" {
		t.Errorf("got %v, %v", lacks, err)
	}
}

func TestWarnings(t *testing.T) {
	if w := (Facts{}).Warnings(); len(w) != 0 {
		t.Errorf("an ordinary host is warned about: %q", w)
	}
	w := Facts{NoSysResource: true, CgroupV1: true}.Warnings()
	if len(w) != 2 || !strings.Contains(w[0], "CAP_SYS_RESOURCE") || !strings.Contains(w[1], "cgroup v1") {
		t.Errorf("got %q", w)
	}
}

func TestDetect(t *testing.T) {
	if _, err := Detect(); err != nil {
		t.Errorf("this host: %v", err)
	}
}

func TestCgroups(t *testing.T) {
	const table = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t3\t1\t1\nmemory\t0\t1\t0\n"
	unified := machine(t, map[string]string{"proc/cgroups": table, "sys/fs/cgroup/cgroup.controllers": "cpuset cpu io pids\n"})
	unified.CgroupMagic = func() (int64, error) { return unix.CGROUP2_SUPER_MAGIC, nil }
	legacy := machine(t, map[string]string{"proc/cgroups": table, "proc/self/mountinfo": strings.Join([]string{
		"30 23 0:27 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755",
		"31 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct",
		"32 30 0:29 / /sys/fs/cgroup/systemd rw shared:9 - cgroup none rw,xattr,name=systemd",
		"33 30 0:30 / /sys/fs/cgroup/unified rw - cgroup2 none rw",
	}, "\n")})
	legacy.CgroupMagic = func() (int64, error) { return unix.TMPFS_MAGIC, nil }
	for name, c := range map[string]struct {
		m           Machine
		version     int
		controllers []string
	}{
		"unified": {unified, 2, []string{"cpuset", "cpu", "io", "pids"}},
		"legacy":  {legacy, 1, []string{"cpu", "cpuacct"}},
	} {
		got, err := c.m.Cgroups()
		if err != nil || got.Version != c.version || !slices.Equal(got.Controllers, c.controllers) || !slices.Equal(got.Disabled, []string{"memory"}) {
			t.Errorf("%s: got %+v, %v", name, got, err)
		}
	}
}
