// Command cloud-controller-manager runs K3s's cloud provider outside of K3s: it gives
// nodes their addresses and takes away the taint that they start with, and makes Services
// of type LoadBalancer work through host ports (ServiceLB) where the configuration asks
// for it.
package main

import (
	"fmt"
	"os"

	_ "github.com/k3s-io/k3s/pkg/cloudprovider" // registers itself under version.Program
	"github.com/k3s-io/k3s/pkg/version"
	"k8s.io/apimachinery/pkg/util/wait"
	cloudprovider "k8s.io/cloud-provider"
	"k8s.io/cloud-provider/app"
	"k8s.io/cloud-provider/app/config"
	"k8s.io/cloud-provider/names"
	"k8s.io/cloud-provider/options"
	"k8s.io/component-base/cli"
	cliflag "k8s.io/component-base/cli/flag"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
)

func main() {
	opts, err := options.NewCloudControllerManagerOptions()
	if err != nil {
		fail(fmt.Errorf("preparing options: %w", err))
	}
	// The only provider there is. Its name comes from the linker flag that names the engine.
	opts.KubeCloudShared.CloudProvider.Name = version.Program
	command := app.NewCloudControllerManagerCommand(opts, provider, app.DefaultInitFuncConstructors,
		names.CCMControllerAliases(), cliflag.NamedFlagSets{}, wait.NeverStop)
	os.Exit(cli.Run(command))
}

// provider makes the cloud provider from --cloud-config. The library has no way to give
// an error back.
func provider(c *config.CompletedConfig) cloudprovider.Interface {
	settings := c.ComponentConfig.KubeCloudShared.CloudProvider
	if settings.Name != version.Program {
		fail(fmt.Errorf("--cloud-provider=%s: this program has no cloud provider but %s", settings.Name, version.Program))
	}
	p, err := cloudprovider.InitCloudProvider(settings.Name, settings.CloudConfigFile)
	if err != nil {
		fail(fmt.Errorf("starting cloud provider %s with configuration %q: %w", settings.Name, settings.CloudConfigFile, err))
	}
	return p
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "cloud-controller-manager:", err)
	os.Exit(1)
}
