//go:build linux

package sealed

import (
	"encoding/hex"
	"testing"
)

func TestDestination(t *testing.T) {
	const ether4, ether6, arp = "0a0b0c0d0e0f010203040506" + "0800", "0a0b0c0d0e0f010203040506" + "86dd", "0a0b0c0d0e0f010203040506" + "0806"
	ip4 := func(protocol, to string) string { return "4500003c0000400040" + protocol + "0000c633640a" + to }
	for _, c := range []struct{ name, frame, want string }{
		{"tcp", ether4 + ip4("06", "cb007109") + "d4311d330000000000000000", "tcp 203.0.113.9:7475"},
		{"udp", ether4 + ip4("11", "cb007109") + "d431007b00000000", "udp 203.0.113.9:123"},
		{"icmp", ether4 + ip4("01", "cb007109") + "0800000000000000", "protocol 1 203.0.113.9"},
		{"multicast", ether4 + ip4("11", "e00000fb") + "14e914e900000000", ""},
		{"broadcast", ether4 + ip4("11", "ffffffff") + "0044004300000000", ""},
		{"arp request", arp + "0001080006040001" + "010203040506" + "c633640a" + "000000000000" + "c6336401", "arp 198.51.100.1"},
		{"gratuitous arp", arp + "0001080006040001" + "010203040506" + "c633640a" + "000000000000" + "c633640a", ""},
		{"ipv6", ether6 + "6000000000140640" + "fe800000000000000000000000000001" + "20010db8000000000000000000000009" + "d43101bb0000000000000000", "tcp [2001:db8::9]:443"},
		{"ipv6 neighbour discovery", ether6 + "6000000000203aff" + "fe800000000000000000000000000001" + "ff0200000000000000000001ff000009" + "8700000000000000", ""},
		{"cut short", ether4 + "4500", ""},
		{"header longer than the packet", ether4 + "4f00003c0000400040060000c633640acb007109", ""},
		{"empty", "", ""},
		{"other protocol", "0a0b0c0d0e0f01020304050688cc0000", ""},
	} {
		frame, err := hex.DecodeString(c.frame)
		if err != nil {
			t.Fatal(c.name, err)
		}
		if got := destination(frame); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// FuzzDestination: frames come from whatever a container sends.
func FuzzDestination(f *testing.F) {
	f.Add([]byte("\x0a\x0b\x0c\x0d\x0e\x0f\x01\x02\x03\x04\x05\x06\x08\x00\x45\x00"))
	f.Fuzz(func(t *testing.T, frame []byte) { destination(frame) })
}
