package engine

import (
	"fmt"
	"slices"
	"sort"

	"github.com/rancher/rke2/runtime/config"
)

// formerOption is an option that K3s or RKE2 has, or had, and this product does not
// follow. It is known so that a configuration that is carried over is told of it.
type formerOption struct {
	flag bool // takes no value
	// same are values that ask for what this product does anyway.
	same []string
	// idle options are accepted with a warning; others are refused.
	idle bool
	// why says what replaced it, or why it is not followed.
	why string
}

// The words of several options.
const (
	noFlannel   = "no flannel is built in: `cni` deploys canal or flannel as a chart, which a HelmChartConfig configures"
	chartProxy  = "kube-proxy is the chart rke2-kube-proxy: use kube-proxy-arg, or a HelmChartConfig of it"
	noCloud     = "cloud-provider-name says which cloud controller manager there is: `rke2` for the release's own, `external` for one that you deploy"
	ownRuntime  = "containerd and the kubelet run from the verified runtime image only: runtime-image names another"
	fixedPorts  = "the API server is on 6443 and the supervisor on 9345 of every server"
	noLocalPath = "no storage provisioner is packaged: deploy one"
)

// former are these options by name. Prefer a word on what to do instead.
var former = map[string]formerOption{
	"docker":                     {flag: true, same: []string{"false"}, why: ownRuntime},
	"container-runtime-endpoint": {same: []string{""}, why: ownRuntime},
	"image-service-endpoint":     {same: []string{""}, why: ownRuntime},
	"kubelet-path":               {same: []string{""}, why: ownRuntime},
	"prefer-bundled-bin":         {flag: true, same: []string{"true"}, why: "the bundled executables are always used"},
	"rootless":                   {flag: true, same: []string{"false"}, why: "nodes run as root: their components are isolated by profile: cis"},
	"disable-agent":              {flag: true, same: []string{"false"}, why: "a server's components are pods of its kubelet: use node-taint to keep others away"},

	"flannel-backend":     {same: []string{"none"}, why: noFlannel},
	"flannel-conf":        {same: []string{""}, why: noFlannel},
	"flannel-cni-conf":    {same: []string{""}, why: noFlannel},
	"flannel-iface":       {same: []string{""}, why: noFlannel + "; node-ip says which address nodes use"},
	"flannel-external-ip": {flag: true, same: []string{"false"}, why: noFlannel},
	"flannel-ipv6-masq":   {flag: true, same: []string{"false"}, why: noFlannel},
	"no-flannel":          {flag: true, same: []string{"true"}, why: noFlannel},
	"vpn-auth":            {same: []string{""}, why: "no VPN is built in: set the VPN up on the host and its address as node-ip"},
	"vpn-auth-file":       {same: []string{""}, why: "no VPN is built in: set the VPN up on the host and its address as node-ip"},

	"disable-network-policy": {flag: true, same: []string{"true"}, why: "no network policy controller is built in: network plugins bring theirs"},
	"kube-proxy-image":       {idle: true, why: chartProxy},
	"kube-proxy-extra-env":   {idle: true, why: chartProxy},
	"kube-proxy-extra-mount": {idle: true, why: chartProxy},

	"disable-cloud-controller": {flag: true, same: []string{"true"}, idle: true, why: noCloud},
	"cloud-provider-config":    {same: []string{""}, why: "kubelets read no cloud configuration any more: give it to the cloud controller manager that you deploy"},

	"enable-servicelb":    {flag: true, same: []string{"false"}, why: "this release packages no load balancer for services: deploy one"},
	"servicelb-namespace": {idle: true, why: "this release packages no load balancer for services: deploy one"},
	"default-local-storage-path": {
		same: []string{""}, why: noLocalPath,
	},

	"https-listen-port":      {same: []string{"6443"}, why: fixedPorts},
	"apiserver-port":         {same: []string{"6443"}, why: fixedPorts},
	"advertise-port":         {same: []string{"6443"}, why: fixedPorts},
	"supervisor-port":        {same: []string{"9345"}, why: fixedPorts},
	"http-listen-port":       {same: []string{"0"}, why: "nothing is served without TLS"},
	"apiserver-bind-address": {same: []string{"0.0.0.0", "::"}, why: "use kube-apiserver-arg: [bind-address=ADDRESS]"},

	"kube-controller-arg": {why: "it is kube-controller-manager-arg now"},
	"no-deploy":           {why: "it is disable now"},
	"cluster-secret":      {why: "it is token now"},
	"kine-tls":            {flag: true, same: []string{"false"}, why: "etcd is the datastore, or what datastore-endpoint names"},
	"storage-endpoint":    {why: "it is datastore-endpoint now"},
	"storage-backend":     {same: []string{"etcd3"}, why: "it is datastore-endpoint now"},
	"storage-cafile":      {why: "it is datastore-cafile now"},
	"storage-certfile":    {why: "it is datastore-certfile now"},
	"storage-keyfile":     {why: "it is datastore-keyfile now"},
	"disable-selinux":     {flag: true, same: []string{"true"}, why: "SELinux is off unless selinux is set"},
	"multus":              {flag: true, same: []string{"false"}, why: "deploy it as a chart of your own"},
}

// check says what becomes of the option: nothing for a value that asks for what is
// done anyway, else a warning or an error.
func (o formerOption) check(name, value string) (warning string, err error) {
	switch {
	case slices.Contains(o.same, value):
		return "", nil
	case o.idle:
		return fmt.Sprintf("%s has no effect: %s", name, o.why), nil
	}
	return "", fmt.Errorf("%s is not an option here: %s", name, o.why)
}

// formerFlags declares them, hidden, for who reads the command line.
func formerFlags(config.Role) []Flag {
	var out []Flag
	for name, o := range former {
		out = append(out, Flag{Name: name, Usage: o.why, Bool: o.flag, Multi: !o.flag, Hidden: true})
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}
