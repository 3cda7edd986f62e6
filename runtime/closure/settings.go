package closure

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/rancher/rke2/charts"
	"github.com/rancher/rke2/runtime/config"
)

// Settings are the options of a server that say which images it needs.
type Settings struct {
	DataDir               string
	Disable               []string // packaged charts, by name
	NoKubeProxy           bool
	AllCharts             bool // every packaged chart counts, and the cloud controller manager, whatever is chosen
	CNI                   []string
	IngressController     []string
	CloudProvider         string
	SystemDefaultRegistry string
	AirgapExtraRegistries []string
	ImageOverrides        map[string]string // by role, as config.Config has them
	ClusterCIDR           []string
	ServiceCIDR           []string
	ClusterDNS            []string
	ClusterDomain         string
}

// Defaults are a server's without a configuration. cni is what `rke2 server` takes.
func Defaults(cni string) Settings {
	return Settings{
		DataDir:           config.DefaultDataDir,
		CNI:               []string{cni},
		IngressController: []string{"ingress-nginx"},
		ImageOverrides:    map[string]string{},
		ClusterCIDR:       []string{"10.42.0.0/16"},
		ServiceCIDR:       []string{"10.43.0.0/16"},
		ClusterDNS:        []string{"10.43.0.10"},
		ClusterDomain:     "cluster.local",
	}
}

// imageOptions name the roles that options of config.yaml override the image of.
var imageOptions = map[string]string{
	"runtime-image":                  config.RoleRuntime,
	"pause-image":                    config.RolePause,
	"etcd-image":                     config.RoleEtcd,
	"kube-apiserver-image":           "kube-apiserver",
	"kube-controller-manager-image":  "kube-controller-manager",
	"kube-scheduler-image":           "kube-scheduler",
	"cloud-controller-manager-image": config.RoleCloudController,
	"helm-job-image":                 config.RoleHelmJob,
}

// ReadSettings puts a configuration file, and the *.yaml of the folder NAME.d beside it,
// over defaults, as a server reads them: a later value replaces an earlier one, and
// "key+" adds to it. Options that say nothing of images are passed over.
func ReadSettings(path string, s Settings) (Settings, error) {
	files := []string{path}
	entries, err := os.ReadDir(path + ".d")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return s, fmt.Errorf("reading configuration: %w", err)
	}
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); !e.IsDir() && (ext == ".yaml" || ext == ".yml") {
			files = append(files, filepath.Join(path+".d", e.Name()))
		}
	}
	all := map[string][]string{}
	for i, file := range files {
		err := addSettings(file, all)
		if i == 0 && len(files) > 1 && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return s, fmt.Errorf("reading configuration %s: %w", file, err)
		}
	}
	return s.with(all)
}

const maxConfig = 1 << 20

func addSettings(file string, all map[string][]string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return err
	}
	if len(text) > maxConfig {
		return fmt.Errorf("it has more than %d bytes", maxConfig)
	}
	var doc yaml.Node
	if err := yaml.NewDecoder(bytes.NewReader(text)).Decode(&doc); errors.Is(err, io.EOF) {
		return nil
	} else if err != nil {
		return err
	}
	if len(doc.Content) == 0 || doc.Content[0].Tag == "!!null" {
		return nil
	}
	top := doc.Content[0]
	if top.Kind != yaml.MappingNode {
		return fmt.Errorf("line %d: want options as `name: value`", top.Line)
	}
	for i := 0; i+1 < len(top.Content); i += 2 {
		key, add := strings.CutSuffix(top.Content[i].Value, "+")
		values := values(top.Content[i+1])
		if add {
			values = append(slices.Clone(all[key]), values...)
		}
		all[key] = values
	}
	return nil
}

// values are a scalar or the scalars of a list.
func values(n *yaml.Node) []string {
	switch n.Kind {
	case yaml.AliasNode:
		if n.Alias.Kind != yaml.AliasNode {
			return values(n.Alias)
		}
	case yaml.ScalarNode:
		if n.Tag != "!!null" {
			return []string{n.Value}
		}
	case yaml.SequenceNode:
		var out []string
		for _, e := range n.Content {
			if e.Kind == yaml.ScalarNode {
				out = append(out, e.Value)
			}
		}
		return out
	}
	return nil
}

func (s Settings) with(all map[string][]string) (Settings, error) {
	overrides := map[string]string{}
	for k, v := range s.ImageOverrides {
		overrides[k] = v
	}
	s.ImageOverrides = overrides
	one := func(to *string, key string) {
		if v := all[key]; len(v) > 0 {
			*to = v[len(v)-1]
		}
	}
	list := func(to *[]string, key string) {
		if v := split(all[key]); len(v) > 0 {
			*to = v
		}
	}
	one(&s.DataDir, "data-dir")
	one(&s.CloudProvider, "cloud-provider-name")
	one(&s.SystemDefaultRegistry, "system-default-registry")
	one(&s.ClusterDomain, "cluster-domain")
	list(&s.Disable, "disable")
	if v := all["disable-kube-proxy"]; len(v) > 0 {
		s.NoKubeProxy = strings.EqualFold(v[len(v)-1], "true")
	}
	list(&s.CNI, "cni")
	list(&s.IngressController, "ingress-controller")
	list(&s.ClusterCIDR, "cluster-cidr")
	list(&s.ServiceCIDR, "service-cidr")
	list(&s.ClusterDNS, "cluster-dns")
	list(&s.AirgapExtraRegistries, "airgap-extra-registry")
	for option, role := range imageOptions {
		var image string
		if one(&image, option); image != "" {
			if fullReference(image) == "" {
				return s, fmt.Errorf("%s: %q is not an image reference", option, image)
			}
			s.ImageOverrides[role] = image
		}
	}
	return s, nil
}

// split takes lists apart that are written with commas.
func split(values []string) []string {
	var out []string
	for _, v := range values {
		for _, e := range strings.Split(v, ",") {
			if e = strings.TrimSpace(e); e != "" {
				out = append(out, e)
			}
		}
	}
	return out
}

// choices are packaged charts of which the configuration picks some, where they are not
// annotated with it: the chart is there if the option has its name.
var choices = []struct {
	option func(Settings) []string
	charts map[string]string // the chart's name, and the value that picks it
}{
	{func(s Settings) []string { return s.CNI }, map[string]string{
		"rke2-canal": "canal", "rke2-calico": "calico", "rke2-calico-crd": "calico", "rke2-cilium": "cilium",
		"rke2-flannel": "flannel", "rke2-multus": "multus",
	}},
	{func(s Settings) []string { return s.IngressController }, map[string]string{
		"rke2-ingress-nginx": "ingress-nginx", "rke2-traefik": "traefik", "rke2-traefik-crd": "traefik",
	}},
	{func(s Settings) []string { return []string{s.CloudProvider} }, map[string]string{
		"rancher-vsphere-cpi": "rancher-vsphere", "rancher-vsphere-csi": "rancher-vsphere",
		"harvester-cloud-provider": "harvester", "harvester-csi-driver": "harvester",
	}},
}

// off says why a packaged chart is not installed, by its name and the annotations of its
// HelmChart; "" if it is.
func (s Settings) off(name string, annotations map[string]string) string {
	if s.AllCharts {
		return ""
	}
	choice := charts.Choice{CNI: s.CNI, IngressController: s.IngressController, Disable: s.Disable, NoKubeProxy: s.NoKubeProxy}
	if why := choice.Off(name, annotations); why != "" || annotations[charts.CNIAnnotation]+annotations[charts.IngressControllerAnnotation] != "" {
		return why
	}
	for _, c := range choices {
		if value, ok := c.charts[name]; ok && !slices.Contains(c.option(s), value) {
			return value + " is not chosen"
		}
	}
	return ""
}

// clusterValues are what charts get that ask for the cluster's settings.
func (s Settings) clusterValues() map[string]string {
	c := config.Cluster{ClusterCIDR: s.ClusterCIDR, ServiceCIDR: s.ServiceCIDR, DNS: s.ClusterDNS, Domain: s.ClusterDomain}
	if len(s.IngressController) > 0 {
		c.IngressClass = s.IngressController[0]
	}
	return c.Values(s.DataDir, s.SystemDefaultRegistry)
}
