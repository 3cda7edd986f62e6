package config

import "strings"

// Cluster is what charts are told of the cluster that they are installed in.
type Cluster struct {
	ClusterCIDR, ServiceCIDR, DNS []string
	Domain                        string
	IngressClass                  string // the default one; "" if there is none
}

// Values are the values, by their path, that a packaged chart gets which asks for the
// cluster's settings. Lists are in helm's form for --set, their commas escaped.
func (c Cluster) Values(dataDir, systemDefaultRegistry string) map[string]string {
	out := map[string]string{
		"global.clusterCIDR":                  strings.Join(c.ClusterCIDR, `\,`),
		"global.clusterCIDRv4":                family(c.ClusterCIDR, false),
		"global.clusterCIDRv6":                family(c.ClusterCIDR, true),
		"global.clusterDNS":                   strings.Join(c.DNS, `\,`),
		"global.clusterDomain":                c.Domain,
		"global.rke2DataDir":                  dataDir,
		"global.serviceCIDR":                  strings.Join(c.ServiceCIDR, `\,`),
		"global.systemDefaultIngressClass":    c.IngressClass,
		"global.systemDefaultRegistry":        systemDefaultRegistry,
		"global.cattle.systemDefaultRegistry": systemDefaultRegistry,
	}
	for k, v := range out {
		if v == "" {
			delete(out, k)
		}
	}
	return out
}

// family is the first network of IPv6, or of IPv4.
func family(cidrs []string, six bool) string {
	for _, c := range cidrs {
		if strings.Contains(c, ":") == six {
			return c
		}
	}
	return ""
}
