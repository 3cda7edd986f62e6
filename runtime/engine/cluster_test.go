package engine

import (
	"reflect"
	"testing"

	"github.com/k3s-io/k3s/pkg/cli/cmds"
	"github.com/urfave/cli/v2"

	"github.com/rancher/rke2/runtime/config"
)

func TestClusterOf(t *testing.T) {
	before := cmds.ServerConfig
	t.Cleanup(func() { cmds.ServerConfig = before })
	for _, c := range []struct {
		cidr, service, dns []string
		ips                []string
		want               config.Cluster
	}{
		{nil, nil, nil, nil, config.Cluster{ClusterCIDR: []string{"10.42.0.0/16"}, ServiceCIDR: []string{"10.43.0.0/16"}, DNS: []string{"10.43.0.10"}, Domain: "d"}},
		{nil, nil, nil, []string{"2001:db8::1"}, config.Cluster{ClusterCIDR: []string{"fd00:42::/56"}, ServiceCIDR: []string{"fd00:43::/112"}, DNS: []string{"fd00:43::a"}, Domain: "d"}},
		{
			[]string{"10.1.0.0/16,fd01::/56"}, []string{"10.2.0.7/16", "fd02::/112"}, nil, nil,
			config.Cluster{ClusterCIDR: []string{"10.1.0.0/16", "fd01::/56"}, ServiceCIDR: []string{"10.2.0.7/16", "fd02::/112"}, DNS: []string{"10.2.0.10", "fd02::a"}, Domain: "d"},
		},
		{nil, []string{"nonsense"}, []string{"10.9.9.9"}, nil, config.Cluster{ClusterCIDR: []string{"10.42.0.0/16"}, ServiceCIDR: []string{"nonsense"}, DNS: []string{"10.9.9.9"}, Domain: "d"}},
	} {
		cmds.ServerConfig.ClusterCIDR, cmds.ServerConfig.ServiceCIDR = *cli.NewStringSlice(c.cidr...), *cli.NewStringSlice(c.service...)
		cmds.ServerConfig.ClusterDNS, cmds.ServerConfig.ClusterDomain = *cli.NewStringSlice(c.dns...), "d"
		if got := clusterOf(c.ips); !reflect.DeepEqual(got, c.want) {
			t.Errorf("got %+v, want %+v", got, c.want)
		}
	}
}
