package charts

import (
	"slices"
	"testing"
)

func TestChoice(t *testing.T) {
	canal := map[string]string{CNIAnnotation: "canal"}
	nginx := map[string]string{IngressControllerAnnotation: "ingress-nginx"}
	for _, c := range []struct {
		choice Choice
		name   string
		of     map[string]string
		want   string
	}{
		{Choice{CNI: []string{"canal"}}, "rke2-canal", canal, ""},
		{Choice{CNI: []string{"multus", "canal"}}, "rke2-canal-crd", canal, ""},
		{Choice{CNI: []string{"flannel"}}, "rke2-canal", canal, "cni does not have canal"},
		{Choice{CNI: []string{"none"}}, "rke2-canal", canal, "cni does not have canal"},
		{Choice{}, "rke2-canal", canal, "cni does not have canal"},
		{Choice{IngressController: []string{"ingress-nginx"}}, "rke2-ingress-nginx", nginx, ""},
		{Choice{IngressController: []string{"none"}}, "rke2-ingress-nginx", nginx, "ingress-controller does not have ingress-nginx"},
		{Choice{CNI: []string{"canal"}, Disable: []string{"rke2-canal"}}, "rke2-canal", canal, "disable has it"},
		{Choice{}, "rke2-coredns", nil, ""},
		{Choice{}, "rke2-kube-proxy", nil, ""},
		{Choice{NoKubeProxy: true}, "rke2-kube-proxy", nil, "disable-kube-proxy is set"},
		{Choice{NoKubeProxy: true}, "rke2-coredns", nil, ""},
	} {
		if got := c.choice.Off(c.name, c.of); got != c.want {
			t.Errorf("%+v, %s: %q, want %q", c.choice, c.name, got, c.want)
		}
	}
}

func TestPackagedImages(t *testing.T) {
	got := PackagedImages(map[string]string{ImagesAnnotation: "a/b:1,c/d:2"})
	if !slices.Equal(got, []string{"a/b:1", "c/d:2"}) {
		t.Errorf("got %q", got)
	}
	if got := PackagedImages(nil); got != nil {
		t.Errorf("got %q of no annotation", got)
	}
}
