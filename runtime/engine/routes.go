package engine

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// flannelLease is where flannel says which addresses this node's pods have.
const flannelLease = "/run/flannel/subnet.env"

const (
	// guardProtocol marks the routes that are ours, in the range that the kernel leaves to
	// programs. rke2-killall.sh removes them by it.
	guardProtocol = 82
	// guardMetric loses against every other route of the same network.
	guardMetric = 1<<32 - 2
)

// guardRoutes makes routes of networks that say "unreachable" where no other route says
// more, and removes those that an earlier start made of others. Without, packets to a pod
// whose network is not up go to the host's gateway: nobody outside is to see them, and who
// sent them would wait for an answer.
func guardRoutes(networks []*net.IPNet) error {
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Protocol: guardProtocol}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return fmt.Errorf("listing routes: %w", err)
	}
	var errs []error
	for _, route := range routes {
		wanted := func(n *net.IPNet) bool { return route.Dst != nil && n.String() == route.Dst.String() }
		if !slices.ContainsFunc(networks, wanted) {
			errs = append(errs, netlink.RouteDel(&route))
		}
	}
	for _, n := range networks {
		route := netlink.Route{Dst: n, Type: unix.RTN_UNREACHABLE, Priority: guardMetric, Protocol: guardProtocol}
		if err := netlink.RouteReplace(&route); err != nil {
			errs = append(errs, fmt.Errorf("making the route of %s: %w", n, err))
		}
	}
	return errors.Join(errs...)
}

// dropBlackholes removes routes that send all of this node's pods nowhere. Canal's flannel
// makes them, below the route that its network has for each pod; a network with one route
// for all pods would be below them.
func dropBlackholes(lease string, removed func(subnet *net.IPNet)) error {
	subnets, err := leased(lease)
	if err != nil || len(subnets) == 0 {
		return err
	}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Type: unix.RTN_BLACKHOLE}, netlink.RT_FILTER_TYPE)
	if err != nil {
		return fmt.Errorf("listing routes: %w", err)
	}
	var errs []error
	for _, route := range routes {
		for _, subnet := range subnets {
			if route.Dst == nil || route.Dst.String() != subnet.String() {
				continue
			}
			if err := netlink.RouteDel(&route); err != nil && !errors.Is(err, unix.ESRCH) {
				errs = append(errs, fmt.Errorf("removing the route of %s to nowhere: %w", subnet, err))
				continue
			}
			removed(subnet)
		}
	}
	return errors.Join(errs...)
}

// leased are the networks in flannel's file: none if flannel wrote none.
func leased(file string) ([]*net.IPNet, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	var subnets []*net.IPNet
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), "=")
		if name != "FLANNEL_SUBNET" && name != "FLANNEL_IPV6_SUBNET" {
			continue
		}
		_, subnet, err := net.ParseCIDR(value)
		if err != nil {
			return nil, fmt.Errorf("%s of %s: %w", name, file, err)
		}
		subnets = append(subnets, subnet)
	}
	return subnets, lines.Err()
}
