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
//
// The keeper of a host on a [Switch] lives in the switch's namespace, which has the
// uplinks of all its hosts ("uplink1", "uplink2" …) and a bridge that joins them.
// The gateway is as above: the bridge keeps what is sent to an uplink itself.
const (
	uplink = "uplink"
	eth0   = "eth0"
)

// layWire makes the pair, one end in this (the keeper's) network namespace and the
// other in that of the process init. It returns the uplink's hardware address.
func layWire(p plan, init int) (string, error) {
	wire := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: eth0, PeerNamespace: netlink.NsPid(init)}
	wire.Name = p.Uplink
	if p.Switched {
		address, err := netip.ParsePrefix(p.Address)
		if err != nil {
			return "", err
		}
		wire.PeerHardwareAddr = hardwareAddress(address.Addr())
	}
	if err := netlink.LinkAdd(wire); err != nil {
		return "", fmt.Errorf("making a veth pair: %w", err)
	}
	near, err := netlink.LinkByName(p.Uplink)
	if err != nil {
		return "", err
	}
	if err := netlink.LinkSetUp(near); err != nil {
		return "", fmt.Errorf("setting %s up: %w", p.Uplink, err)
	}
	if p.Switched && !p.Unplugged {
		if err := plugIn(p.Uplink, true); err != nil {
			return "", err
		}
	}
	return near.Attrs().HardwareAddr.String(), nil
}

// plugIn makes a wire part of the switch's bridge, or of nothing.
func plugIn(wire string, in bool) error {
	link, err := netlink.LinkByName(wire)
	if err != nil {
		return fmt.Errorf("looking for %s: %w", wire, err)
	}
	if !in {
		err = netlink.LinkSetNoMaster(link)
	} else {
		var b netlink.Link
		if b, err = netlink.LinkByName(bridge); err == nil {
			err = netlink.LinkSetMaster(link, b)
		}
	}
	if err != nil {
		return fmt.Errorf("plugging %s: %w", wire, err)
	}
	return nil
}

// cutWire removes the pair. The kernel does it too, but later.
func cutWire(p plan) {
	if link, err := netlink.LinkByName(p.Uplink); err == nil {
		_ = netlink.LinkDel(link)
	}
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
