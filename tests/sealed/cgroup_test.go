//go:build linux

package sealed

import (
	"reflect"
	"testing"
)

func TestParseHierarchies(t *testing.T) {
	const ns = "10 1 0:1 / /proc rw - proc proc rw\n"
	for _, c := range []struct {
		name, mounts, cgroup string
		want                 []hierarchy
	}{
		{
			name: "hybrid, controllers apart",
			mounts: ns +
				"31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n" +
				"32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n" +
				"33 31 0:30 / /sys/fs/cgroup/cpuacct rw - cgroup cgroup rw,cpuacct\n" +
				"40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n" +
				"41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n",
			cgroup: "9:name=systemd:/\n2:cpuacct:/\n1:cpu:/job/x\n0::/\n",
			want: []hierarchy{
				{Mount: "/sys/fs/cgroup/cpu", Options: []string{"cpu"}, Home: "/sys/fs/cgroup/cpu/job/x"},
				{Mount: "/sys/fs/cgroup/cpuacct", Options: []string{"cpuacct"}, Home: "/sys/fs/cgroup/cpuacct"},
				{Mount: "/sys/fs/cgroup/systemd", Options: []string{"name=systemd"}, Home: "/sys/fs/cgroup/systemd"},
				{Mount: "/sys/fs/cgroup/unified", Unified: true, Home: "/sys/fs/cgroup/unified"},
			},
		},
		{
			name:   "controllers joined",
			mounts: "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n",
			cgroup: "4:cpu,cpuacct:/user.slice\n0::/user.slice\n",
			want: []hierarchy{
				{Mount: "/sys/fs/cgroup/cpu,cpuacct", Options: []string{"cpu", "cpuacct"}, Home: "/sys/fs/cgroup/cpu,cpuacct/user.slice"},
			},
		},
		{
			name:   "version 2 only",
			mounts: "30 23 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n",
			cgroup: "0::/user.slice/user-0.slice/session-1.scope\n",
			want: []hierarchy{
				{Mount: "/sys/fs/cgroup", Unified: true, Home: "/sys/fs/cgroup/user.slice/user-0.slice/session-1.scope"},
			},
		},
		{
			name:   "in a container that sees a part of the tree",
			mounts: "32 31 0:29 /docker/abc /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n",
			cgroup: "4:pids:/docker/abc/inner\n",
			want:   []hierarchy{{Mount: "/sys/fs/cgroup/pids", Options: []string{"pids"}, Home: "/sys/fs/cgroup/pids/inner"}},
		},
		{
			name:   "in a container that sees another part of the tree than it is in",
			mounts: "32 31 0:29 /docker/abc /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n",
			cgroup: "4:pids:/docker/xyz\n",
			want:   []hierarchy{{Mount: "/sys/fs/cgroup/pids", Options: []string{"pids"}, Home: "/sys/fs/cgroup/pids"}},
		},
		{name: "none", mounts: ns, cgroup: "0::/\n", want: []hierarchy{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := parseHierarchies(c.mounts, c.cgroup)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("got  %+v\nwant %+v", got, c.want)
			}
		})
	}
	for _, bad := range [][2]string{{"nonsense", ""}, {"", "nonsense"}} {
		if _, err := parseHierarchies(bad[0], bad[1]); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

func TestAbandoned(t *testing.T) {
	run, err := thisRun()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{
		run + "-node":              false, // ours, alive
		"rke2-sealed-1-1-node":     true,  // process 1 started at another time
		"rke2-sealed-4194305-9-x":  true,  // above every process id
		"rke2-sealed-x":            false,
		"kubepods":                 false,
		"my-rke2-sealed-1-1-node":  false,
		"rke2-sealed-1-1":          true,
		"rke2-sealed-1-1node-node": false,
	} {
		if got := abandoned(name); got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}
