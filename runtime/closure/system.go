package closure

import (
	"fmt"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/name"

	"github.com/rancher/rke2/charts"
	"github.com/rancher/rke2/runtime/config"
)

// system notes what a server itself runs: its executables, the sandbox of every pod,
// and the control plane's static pods.
func (p *prover) system() error {
	c := p.nodeConfig()
	if len(p.in.Release.Images) == 0 {
		p.fault("this rke2 was built without a release, so it is not known what a node needs: use the rke2 of the release that the bundles are for")
		return nil
	}
	for _, w := range []struct{ role, by string }{
		{config.RoleRuntime, "node, executables"},
		{config.RolePause, "node, sandbox of every pod"},
	} {
		ref, err := c.Image(w.role)
		if err != nil {
			return err
		}
		p.needTag(ref, w.by, "", "")
	}
	for _, component := range c.Components() {
		ref, err := c.ComponentImage(component)
		if err != nil {
			return err
		}
		p.needTag(ref, "static pod", "Pod kube-system/"+component, component)
	}
	return nil
}

func (p *prover) nodeConfig() config.Config {
	_, hasCloud := p.in.Release.Image(config.RoleCloudController)
	return config.Config{
		Role:                  config.Server,
		DataDir:               p.in.Settings.DataDir,
		SystemDefaultRegistry: p.in.Settings.SystemDefaultRegistry,
		AirgapExtraRegistries: p.in.Settings.AirgapExtraRegistries,
		ImageOverrides:        p.in.Settings.ImageOverrides,
		CloudController:       p.in.Settings.CloudProvider == "rke2" || p.in.Settings.AllCharts && hasCloud,
		Release:               p.in.Release,
	}
}

func (p *prover) needTag(ref name.Reference, by, object, container string) {
	p.need(charts.Use{Image: ref.String(), Reference: fullReference(ref.String()), Certainty: charts.Needed, Object: object, Container: container}, by)
}

// needJob notes the image that installs a chart.
func (p *prover) needJob(h helmChart) {
	by, object := "helm job", fmt.Sprintf("HelmChart %s/%s", h.Metadata.Namespace, h.Metadata.Name)
	image := h.Spec.JobImage
	if image == "" {
		ref, err := p.nodeConfig().Image(config.RoleHelmJob)
		if err != nil {
			p.fault("the image of helm jobs is not known: %v", err)
			return
		}
		image = ref.String()
	}
	p.need(charts.Use{Image: image, Reference: fullReference(image), Certainty: charts.Needed, Object: object, Container: "helm"}, by)
}

// fullReference is a reference as a container runtime takes it; "" if it takes none.
func fullReference(image string) string {
	named, err := reference.ParseDockerRef(image)
	if err != nil {
		return ""
	}
	return named.String()
}
