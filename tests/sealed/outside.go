//go:build linux

package sealed

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

// watchUplink writes one line to log for every new destination that a packet on
// the uplink names. It returns once it listens; the rest runs until the process
// ends. Link-local multicast (neighbour discovery and its like) is not a
// destination outside and is left out, and so is what a host on a switch sends to
// another: all frames but those for the gateway, and questions who has an address.
func watchUplink(p plan, log *os.File) error {
	link, err := net.InterfaceByName(p.Uplink)
	if err != nil {
		return fmt.Errorf("watching the uplink: %w", err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, htons(unix.ETH_P_ALL))
	if err != nil {
		return fmt.Errorf("watching the uplink: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: uint16(htons(unix.ETH_P_ALL)), Ifindex: link.Index}); err != nil {
		return fmt.Errorf("watching the uplink: %w", err)
	}
	go func() {
		seen := map[string]bool{}
		frame := make([]byte, 4<<10) // the rest of a larger one does not matter
		for {
			n, from, err := unix.Recvfrom(fd, frame, 0)
			if err == unix.EINTR {
				continue
			}
			if err == unix.ENETDOWN {
				return // the wire went, with the host or by its hand: nothing can leave any more
			}
			if err != nil {
				fmt.Fprintln(log, "uplink no longer watched:", err)
				return
			}
			if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype == unix.PACKET_OUTGOING {
				continue
			}
			if p.Switched && !outward(frame[:n], link.HardwareAddr) {
				continue
			}
			line := destination(frame[:n])
			if line != "" && !seen[line] {
				seen[line] = true
				fmt.Fprintln(log, line)
			}
		}
	}()
	return nil
}

// outward tells whether a frame is for the gateway, whose hardware address is
// given, or asks for a neighbour.
func outward(frame []byte, gateway net.HardwareAddr) bool {
	if len(frame) < 14 {
		return false
	}
	return bytes.Equal(frame[:6], gateway) ||
		frame[0]&1 == 1 && binary.BigEndian.Uint16(frame[12:]) == unix.ETH_P_ARP
}

func htons(v uint16) int { return int(v<<8 | v>>8) }

// destination says where an Ethernet frame wants to go, or "" for what stays on
// the link by itself.
func destination(frame []byte) string {
	if len(frame) < 14 {
		return ""
	}
	body := frame[14:]
	switch binary.BigEndian.Uint16(frame[12:]) {
	case unix.ETH_P_IP:
		if len(body) < 20 {
			return ""
		}
		to := netip.AddrFrom4([4]byte(body[16:20]))
		header := int(body[0]&15) * 4
		if to.IsMulticast() || to == netip.AddrFrom4([4]byte{255, 255, 255, 255}) || header < 20 || len(body) < header {
			return ""
		}
		return transport(body[9], to, body[header:])
	case unix.ETH_P_IPV6:
		if len(body) < 40 {
			return ""
		}
		to := netip.AddrFrom16([16]byte(body[24:40]))
		if to.IsMulticast() || to.IsLinkLocalUnicast() {
			return ""
		}
		return transport(body[6], to, body[40:])
	case unix.ETH_P_ARP:
		if len(body) < 28 {
			return ""
		}
		from, to := netip.AddrFrom4([4]byte(body[14:18])), netip.AddrFrom4([4]byte(body[24:28]))
		if from == to {
			return "" // announces its own address
		}
		return "arp " + to.String()
	}
	return ""
}

func transport(protocol byte, to netip.Addr, body []byte) string {
	name := map[byte]string{unix.IPPROTO_TCP: "tcp", unix.IPPROTO_UDP: "udp"}[protocol]
	if name == "" || len(body) < 8 {
		return fmt.Sprintf("protocol %d %s", protocol, to)
	}
	port := binary.BigEndian.Uint16(body[2:])
	line := name + " " + netip.AddrPortFrom(to, port).String()
	if name == "udp" && port == 53 {
		var m dnsmessage.Parser
		if _, err := m.Start(body[8:]); err == nil {
			if q, err := m.Question(); err == nil {
				line += " asking for " + q.Name.String()
			}
		}
	}
	return line
}

// Outside lists what the host tried to send beyond itself since it was made, one
// line a destination: protocol, address, port, and the name that a DNS query
// asked for. None of it was answered. An empty list means that it tried nothing.
// The other hosts of a switch are not outside.
func (h *Host) Outside() ([]string, error) {
	b, err := os.ReadFile(h.outsideLog())
	if err != nil {
		return nil, err
	}
	lines := strings.FieldsFunc(string(b), func(r rune) bool { return r == '\n' })
	return slices.DeleteFunc(lines, func(line string) bool {
		asked, ok := strings.CutPrefix(line, "arp ")
		return ok && h.opts.Switch != nil && h.opts.Switch.knows(asked)
	}), nil
}
