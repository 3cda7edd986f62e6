package engine

import (
	"net/netip"
	"strings"

	"github.com/k3s-io/k3s/pkg/cli/cmds"
	"github.com/k3s-io/k3s/pkg/util"

	"github.com/rancher/rke2/runtime/config"
)

// clusterOf is what charts are told of the cluster: the options of this server, and what
// the engine takes where they say nothing. An option that cannot be read is the engine's
// to refuse.
func clusterOf(nodeIPs []string) config.Cluster {
	s := &cmds.ServerConfig
	c := config.Cluster{
		ClusterCIDR: util.SplitStringSlice(s.ClusterCIDR.Value()),
		ServiceCIDR: util.SplitStringSlice(s.ServiceCIDR.Value()),
		DNS:         util.SplitStringSlice(s.ClusterDNS.Value()),
		Domain:      s.ClusterDomain,
	}
	six := len(nodeIPs) > 0 && strings.Contains(nodeIPs[0], ":")
	if len(c.ClusterCIDR) == 0 {
		c.ClusterCIDR = []string{byFamily(six, "10.42.0.0/16", "fd00:42::/56")}
	}
	if len(c.ServiceCIDR) == 0 {
		c.ServiceCIDR = []string{byFamily(six, "10.43.0.0/16", "fd00:43::/112")}
	}
	if len(c.DNS) == 0 {
		for _, cidr := range c.ServiceCIDR {
			if dns, ok := dnsAddress(cidr); ok {
				c.DNS = append(c.DNS, dns)
			}
		}
	}
	return c
}

func byFamily(six bool, four, other string) string {
	if six {
		return other
	}
	return four
}

// dnsAddress is the tenth address of a network of services.
func dnsAddress(cidr string) (string, bool) {
	network, err := netip.ParsePrefix(cidr)
	if err != nil {
		return "", false
	}
	address := network.Masked().Addr()
	for range 10 {
		address = address.Next()
	}
	return address.String(), network.Contains(address)
}
