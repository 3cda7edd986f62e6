package host

import (
	"bytes"
	"compress/gzip"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"testing"
)

// Tables as the kernel writes them: on 127.0.0.1:6443, [::]:9345 and [::1]:80, and a
// connection that is none of them.
const (
	tcp = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:192B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 101 1 0000000000000000 100 0 0 10 0
   1: 0200000A:0016 0100000A:D431 01 00000000:00000000 00:00000000 00000000     0        0 102 1 0000000000000000 20 4 30 10 -1
`
	tcp6 = `  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000000000000:2481 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 103 1 0000000000000000 100 0 0 10 0
   1: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 104 1 0000000000000000 100 0 0 10 0
`
)

func TestListenersAndOwners(t *testing.T) {
	m := machine(t, map[string]string{
		"proc/self/net/tcp": tcp, "proc/self/net/tcp6": tcp6,
		"proc/1/comm": "init", "proc/1/stat": "1 (init) S 0 1 1",
		"proc/7/comm": "nginx", "proc/7/exe": "->/usr/sbin/nginx (deleted)", "proc/7/cmdline": "nginx: master\x00-g\x00",
		"proc/7/stat": "7 (od) d) S 1 7 7", "proc/7/fd/3": "->/dev/null", "proc/7/fd/5": "->socket:[101]",
		"proc/8/comm": "nginx", "proc/8/stat": "8 (nginx) S 7 7 7", "proc/8/fd/5": "->socket:[101]", "proc/8/fd/6": "->socket:[103]",
	})
	found, err := m.Listeners()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, l := range found {
		got = append(got, l.At.String())
	}
	if want := []string{"127.0.0.1:6443", "[::]:9345", "[::1]:80"}; !slices.Equal(got, want) {
		t.Fatalf("listeners %q, want %q", got, want)
	}
	owners := m.Owners(found)
	if len(owners) != 2 || owners[found[0]].PID != 7 || owners[found[1]].PID != 8 {
		t.Errorf("owners %v", owners)
	}
	if s := owners[found[0]].String(); s != "nginx (pid 7)" {
		t.Errorf("it is called %q", s)
	}
	var line []int
	for _, p := range m.Ancestry(8) {
		line = append(line, p.PID)
	}
	if !slices.Equal(line, []int{8, 7, 1}) {
		t.Errorf("ancestry %v", line)
	}
	if n := m.Named("nginx"); len(n) != 2 {
		t.Errorf("found %v", n)
	}
}

// TestListenersOfThisMachine holds the parser to the real kernel.
func TestListenersOfThisMachine(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	m := This()
	found, err := m.Listeners()
	if err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(found, func(f Listener) bool { return f.At.String() == l.Addr().String() })
	if at < 0 {
		t.Fatalf("%s is not among %v", l.Addr(), found)
	}
	if owner := m.Owners(found[at : at+1])[found[at]]; owner.PID != os.Getpid() {
		t.Errorf("its owner is %v", owner)
	}
}

func TestDefaultRoutes(t *testing.T) {
	m := machine(t, map[string]string{
		"proc/self/net/route": "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n" +
			"eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n" +
			"eth1\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n",
		"proc/self/net/ipv6_route": "00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo\n" +
			"00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003     eth2\n",
	})
	four, six, err := m.DefaultRoutes()
	if err != nil || !slices.Equal(four, []string{"eth0"}) || !slices.Equal(six, []string{"eth2"}) {
		t.Errorf("got %q, %q, %v", four, six, err)
	}
	if four, six, err := machine(t, nil).DefaultRoutes(); err != nil || four != nil || six != nil {
		t.Errorf("no tables: got %q, %q, %v", four, six, err)
	}
}

func TestKernelHas(t *testing.T) {
	var config bytes.Buffer
	zip := gzip.NewWriter(&config)
	if _, err := zip.Write([]byte("# CONFIG_VXLAN is not set\nCONFIG_NF_TABLES=y\nCONFIG_BRIDGE_NETFILTER=m\n")); err != nil {
		t.Fatal(err)
	}
	if err := zip.Close(); err != nil {
		t.Fatal(err)
	}
	base := map[string]string{
		"proc/sys/kernel/osrelease": "6.1.0-9\n",
		"proc/filesystems":          "nodev\tproc\n\text4\n",
	}
	with := func(more map[string]string) Kernel {
		files := map[string]string{}
		for _, from := range []map[string]string{base, more} {
			for k, v := range from {
				files[k] = v
			}
		}
		return machine(t, files).Kernel()
	}
	overlay := Feature{Module: "overlay", FS: "overlay", Option: "CONFIG_OVERLAY_FS"}
	vxlan := Feature{Module: "vxlan", Option: "CONFIG_VXLAN"}
	for name, c := range map[string]struct {
		k    Kernel
		f    Feature
		want Presence
	}{
		"listed":                 {with(map[string]string{"proc/filesystems": "nodev\toverlay\n"}), overlay, Present},
		"in a module":            {with(map[string]string{"lib/modules/6.1.0-9/modules.dep": "kernel/fs/overlayfs/overlay.ko.xz:\n"}), overlay, Loadable},
		"another kernel's":       {with(map[string]string{"lib/modules/6.1.0-8/modules.dep": "kernel/fs/overlayfs/overlay.ko.xz:\n"}), overlay, Missing},
		"no file system":         {with(nil), overlay, Missing},
		"built in":               {with(map[string]string{"usr/lib/modules/6.1.0-9/modules.builtin": "kernel/drivers/net/vxlan.ko\n"}), vxlan, Present},
		"loaded":                 {with(map[string]string{"proc/modules": "vxlan 155648 0 - Live 0x0\n"}), vxlan, Present},
		"a module with a dash":   {with(map[string]string{"lib/modules/6.1.0-9/modules.dep": "net/x/nf-tables.ko:\n"}), Feature{Module: "nf_tables"}, Loadable},
		"nobody tells":           {with(nil), vxlan, Uncertain},
		"the kernel tells":       {with(map[string]string{"proc/config.gz": config.String()}), vxlan, Missing},
		"the kernel tells, in":   {with(map[string]string{"proc/config.gz": config.String()}), Feature{Module: "nf_tables", Option: "CONFIG_NF_TABLES"}, Present},
		"a module that is away":  {with(map[string]string{"proc/config.gz": config.String()}), Feature{Module: "br_netfilter", Option: "CONFIG_BRIDGE_NETFILTER"}, Missing},
		"at work":                {with(map[string]string{"proc/sys/net/bridge/x": "1"}), Feature{Module: "br_netfilter", File: "proc/sys/net/bridge"}, Present},
		"no such module at hand": {with(map[string]string{"lib/modules/6.1.0-9/modules.dep": "a/b.ko:\n"}), vxlan, Missing},
	} {
		if got := c.k.Has(c.f); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

func TestMadeAfter(t *testing.T) {
	got := madeAfter(&debug.BuildInfo{Deps: []*debug.Module{
		{Path: "a", Version: "v1.2.3"},
		{Path: "b", Version: "v0.0.0-20240102030405-0123456789ab"},
		{Path: "c", Version: "v1.0.0", Replace: &debug.Module{Path: "d", Version: "v1.2.4-0.20250607080910-0123456789ab"}},
	}})
	if s := got.UTC().Format("2006-01-02 15:04:05"); s != "2025-06-07 08:09:10" {
		t.Errorf("got %s", s)
	}
	if at := madeAfter(&debug.BuildInfo{}); !at.IsZero() {
		t.Errorf("of nothing: %s", at)
	}
}

func TestDiskAndWritable(t *testing.T) {
	dir := t.TempDir()
	m := This()
	deep := filepath.Join(dir, "not", "there")
	disk, err := m.Disk(deep)
	if err != nil || disk.Path != dir || disk.Total <= 0 || disk.Free < disk.Available {
		t.Errorf("got %+v, %v", disk, err)
	}
	if err := m.Writable(deep); err != nil {
		t.Error(err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := m.Writable(file); err == nil {
		t.Error("a file was taken for a folder")
	}
}
