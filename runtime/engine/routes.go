package engine

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// flannelLease is where flannel says which addresses this node's pods have.
const flannelLease = "/run/flannel/subnet.env"

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
