package engine

import (
	"net"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestDropBlackholes: the routes of this node's pods to nowhere go, every other route stays.
func TestDropBlackholes(t *testing.T) {
	runtime.LockOSThread() // never unlocked: the thread ends with the test, and its network
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("making a network of its own takes root: %v", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		t.Fatal(err)
	}
	network := func(cidr string) *net.IPNet {
		_, n, err := net.ParseCIDR(cidr)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	for _, r := range []netlink.Route{
		{Dst: network("10.42.1.0/24"), Type: unix.RTN_BLACKHOLE},
		{Dst: network("fd00:42:0:1::/64"), Type: unix.RTN_BLACKHOLE},
		{Dst: network("10.99.0.0/16"), Type: unix.RTN_BLACKHOLE}, // an operator's
		{Dst: network("10.42.1.7/32"), LinkIndex: lo.Attrs().Index, Scope: netlink.SCOPE_LINK},
	} {
		if err := netlink.RouteAdd(&r); err != nil {
			t.Fatalf("%s: %v", r.Dst, err)
		}
	}
	lease := filepath.Join(t.TempDir(), "subnet.env")
	drop := func() []string {
		t.Helper()
		var gone []string
		if err := dropBlackholes(lease, func(n *net.IPNet) { gone = append(gone, n.String()) }); err != nil {
			t.Error(err)
		}
		slices.Sort(gone)
		return gone
	}
	if gone := drop(); len(gone) > 0 {
		t.Errorf("without a lease it removes %q", gone)
	}
	write(t, lease, "FLANNEL_NETWORK=10.42.0.0/16\nFLANNEL_SUBNET=10.42.1.1/24\nFLANNEL_IPV6_SUBNET=fd00:42:0:1::1/64\nFLANNEL_MTU=1450\n")
	if gone := drop(); !slices.Equal(gone, []string{"10.42.1.0/24", "fd00:42:0:1::/64"}) {
		t.Errorf("it removes %q", gone)
	}
	if gone := drop(); len(gone) > 0 {
		t.Errorf("again, it removes %q", gone)
	}
	left, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	var kept []string
	for _, r := range left {
		kept = append(kept, r.Dst.String())
	}
	if all := strings.Join(kept, " "); !strings.Contains(all, "10.99.0.0/16") || !strings.Contains(all, "10.42.1.7/32") {
		t.Errorf("left: %s", all)
	}
	write(t, lease, "FLANNEL_SUBNET=here\n")
	if err := dropBlackholes(lease, nil); err == nil || !strings.Contains(err.Error(), "FLANNEL_SUBNET of "+lease) {
		t.Errorf("a lease that is none: %v", err)
	}
}
