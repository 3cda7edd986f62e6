package charts

import (
	"slices"
	"strings"
)

// Annotations of the HelmCharts that a runtime image brings.
const (
	// CNIAnnotation names the network that the chart is a part of: it is installed where
	// `cni` names that.
	CNIAnnotation = "rke2.cattle.io/cni"
	// IngressControllerAnnotation names the ingress controller that the chart is: it is
	// installed where `ingress-controller` names that.
	IngressControllerAnnotation = "rke2.cattle.io/ingress-controller"
	// ImagesAnnotation lists the images that the chart needs with its default values:
	// full references, sorted, with commas between them.
	ImagesAnnotation = "rke2.cattle.io/images"
)

// kubeProxyChart is the chart that disable-kube-proxy is about.
const kubeProxyChart = "rke2-kube-proxy"

// Choice is what a server was told about the charts that come with it.
type Choice struct {
	CNI               []string
	IngressController []string
	Disable           []string // by name
	NoKubeProxy       bool
}

// Off says why a packaged HelmChart is not installed, by its name and its annotations;
// "" if it is.
func (c Choice) Off(name string, annotations map[string]string) string {
	switch cni, ingress := annotations[CNIAnnotation], annotations[IngressControllerAnnotation]; {
	case slices.Contains(c.Disable, name):
		return "disable has it"
	case c.NoKubeProxy && name == kubeProxyChart:
		return "disable-kube-proxy is set"
	case cni != "" && !slices.Contains(c.CNI, cni):
		return "cni does not have " + cni
	case ingress != "" && !slices.Contains(c.IngressController, ingress):
		return "ingress-controller does not have " + ingress
	}
	return ""
}

// PackagedImages reads the ImagesAnnotation.
func PackagedImages(annotations map[string]string) []string {
	var out []string
	for _, ref := range strings.Split(annotations[ImagesAnnotation], ",") {
		if ref = strings.TrimSpace(ref); ref != "" {
			out = append(out, ref)
		}
	}
	return out
}
