package engine

import (
	"errors"
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
	lo := ownNetwork(t)
	for _, r := range []netlink.Route{
		{Dst: network(t, "10.42.1.0/24"), Type: unix.RTN_BLACKHOLE},
		{Dst: network(t, "fd00:42:0:1::/64"), Type: unix.RTN_BLACKHOLE},
		{Dst: network(t, "10.99.0.0/16"), Type: unix.RTN_BLACKHOLE}, // an operator's
		{Dst: network(t, "10.42.1.7/32"), LinkIndex: lo.Attrs().Index, Scope: netlink.SCOPE_LINK},
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
	if all := strings.Join(routes(t), " "); !strings.Contains(all, "10.99.0.0/16") || !strings.Contains(all, "10.42.1.7/32") {
		t.Errorf("left: %s", all)
	}
	write(t, lease, "FLANNEL_SUBNET=here\n")
	if err := dropBlackholes(lease, nil); err == nil || !strings.Contains(err.Error(), "FLANNEL_SUBNET of "+lease) {
		t.Errorf("a lease that is none: %v", err)
	}
}

// TestGuardRoutes: what nothing else routes is unreachable; made again it is one route, and
// one that is not asked for any more goes. Others' stay.
func TestGuardRoutes(t *testing.T) {
	lo := ownNetwork(t)
	for _, r := range []netlink.Route{
		{Dst: network(t, "10.50.0.0/16"), Type: unix.RTN_UNREACHABLE},
		{Dst: network(t, "0.0.0.0/0"), LinkIndex: lo.Attrs().Index},
	} {
		if err := netlink.RouteAdd(&r); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct {
		pods []string
		want int
	}{
		{[]string{"10.42.0.0/16", "fd00:42::/56"}, 2},
		{[]string{"10.42.0.0/16", "fd00:42::/56"}, 2},
		{[]string{"10.44.0.0/16"}, 1},
	} {
		var pods []*net.IPNet
		for _, p := range step.pods {
			pods = append(pods, network(t, p))
		}
		if err := guardRoutes(pods); err != nil {
			t.Fatal(err)
		}
		guards := 0
		for _, r := range routes(t) {
			if slices.Contains(step.pods, r) {
				guards++
			}
		}
		if guards != step.want {
			t.Errorf("%d routes of %q: %q", guards, step.pods, routes(t))
		}
	}
	if _, err := netlink.RouteGet(net.ParseIP("10.44.7.7")); !errors.Is(err, unix.EHOSTUNREACH) {
		t.Errorf("a pod that nobody knows: %v", err)
	}
	if _, err := netlink.RouteGet(net.ParseIP("10.42.7.7")); err != nil {
		t.Errorf("what is no pod's any more: %v", err)
	}
	// A network's own route of the same size wins.
	if err := netlink.RouteAdd(&netlink.Route{Dst: network(t, "10.44.0.0/16"), LinkIndex: lo.Attrs().Index, Priority: 4096}); err != nil {
		t.Fatal(err)
	}
	if _, err := netlink.RouteGet(net.ParseIP("10.44.7.7")); err != nil {
		t.Errorf("with a route: %v", err)
	}
	if err := guardRoutes(nil); err != nil {
		t.Fatal(err)
	}
	if left := routes(t); !slices.Contains(left, "10.50.0.0/16") {
		t.Errorf("an operator's own is gone: %q", left)
	}
	if _, err := netlink.RouteGet(net.ParseIP("10.50.7.7")); !errors.Is(err, unix.EHOSTUNREACH) {
		t.Errorf("what an operator made unreachable: %v", err)
	}
}

// ownNetwork puts the test into a network of its own, and gives its loopback interface.
func ownNetwork(t *testing.T) netlink.Link {
	t.Helper()
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
	return lo
}

func network(t *testing.T, cidr string) *net.IPNet {
	t.Helper()
	_, n, err := net.ParseCIDR(cidr)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// routes are the networks of all routes there are.
func routes(t *testing.T) []string {
	t.Helper()
	left, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, r := range left {
		if r.Dst != nil {
			all = append(all, r.Dst.String())
		}
	}
	return all
}
