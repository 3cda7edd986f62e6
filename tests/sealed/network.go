//go:build linux

package sealed

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// The wire: a veth pair. One end, "eth0", is the host's; the other, "uplink",
// stays in the keeper's network namespace, which has nothing else, no address and
// no route. The host's default gateway is an address that nobody has, with the
// uplink's hardware address: what is sent outside arrives at the keeper, is
// written down, and is lost without an answer, as behind a firewall.
const (
	uplink = "uplink"
	eth0   = "eth0"
)

// layWire makes the pair in this (the keeper's) network namespace and gives the
// host's end to the process init. It returns the uplink's hardware address.
func layWire(init int) (string, error) {
	wire := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: eth0}
	wire.Name = uplink
	if err := netlink.LinkAdd(wire); err != nil {
		return "", fmt.Errorf("making a veth pair: %w", err)
	}
	far, err := netlink.LinkByName(eth0)
	if err != nil {
		return "", fmt.Errorf("making a veth pair: %w", err)
	}
	if err := netlink.LinkSetNsPid(far, init); err != nil {
		return "", fmt.Errorf("handing %s to the host: %w", eth0, err)
	}
	near, err := netlink.LinkByName(uplink)
	if err != nil {
		return "", err
	}
	if err := netlink.LinkSetUp(near); err != nil {
		return "", fmt.Errorf("setting %s up: %w", uplink, err)
	}
	return near.Attrs().HardwareAddr.String(), nil
}

// takeWire configures the host's end. It runs in init.
func takeWire(p plan) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("setting lo up: %w", err)
	}
	link, err := netlink.LinkByName(eth0)
	if err != nil {
		return fmt.Errorf("looking for %s: %w", eth0, err)
	}
	address, err := netlink.ParseAddr(p.Address)
	if err != nil {
		return fmt.Errorf("host address: %w", err)
	}
	if err := netlink.AddrAdd(link, address); err != nil {
		return fmt.Errorf("giving %s the address %s: %w", eth0, p.Address, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("setting %s up: %w", eth0, err)
	}
	gateway := net.ParseIP(p.Gateway)
	mac, err := net.ParseMAC(p.UplinkMAC)
	if err != nil {
		return fmt.Errorf("hardware address of the uplink: %w", err)
	}
	if err := netlink.NeighSet(&netlink.Neigh{
		LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT, IP: gateway, HardwareAddr: mac,
	}); err != nil {
		return fmt.Errorf("adding the gateway %s: %w", gateway, err)
	}
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: gateway}); err != nil {
		return fmt.Errorf("adding the default route: %w", err)
	}
	return nil
}

// gatewayOf returns the address that stands for the gateway: the network's first,
// or its second if the host has the first.
func gatewayOf(address netip.Prefix) (netip.Addr, error) {
	first := address.Masked().Addr().Next()
	if first == address.Addr() {
		first = first.Next()
	}
	if !address.Contains(first) {
		return netip.Addr{}, errors.New("network has no room for a gateway")
	}
	return first, nil
}
