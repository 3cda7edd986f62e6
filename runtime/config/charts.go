package config

import (
	"fmt"
	"slices"
	"strings"
)

// metaPlugin is the network plugin that calls others: it stands first, and another after it.
const metaPlugin = "multus"

// checkCharts refuses what no release could deploy. Whether this one has the charts is
// known when its runtime is staged.
func (c Config) checkCharts() error {
	if c.Role != Server {
		return nil
	}
	if err := oneNetwork(c.Charts.CNI); err != nil {
		return err
	}
	for _, option := range []struct {
		name  string
		given []string
	}{{"cni", c.Charts.CNI}, {"ingress-controller", c.Charts.IngressController}} {
		switch {
		case len(option.given) == 0:
			return fmt.Errorf("%s is empty: to deploy none, say `%s: none`", option.name, option.name)
		case len(option.given) > 1 && slices.Contains(option.given, "none"):
			return fmt.Errorf("%s %s: none cannot be with others", option.name, strings.Join(option.given, ","))
		}
	}
	return nil
}

// oneNetwork refuses two networks: a node's pods have one, or multus and one.
func oneNetwork(cni []string) error {
	if len(cni) == 0 {
		return nil
	}
	rest := cni
	if cni[0] == metaPlugin {
		rest = cni[1:]
	}
	switch {
	case slices.Contains(rest, metaPlugin):
		return fmt.Errorf("cni %s: %s comes first, and the network that it adds to after it", strings.Join(cni, ","), metaPlugin)
	case len(rest) > 1:
		return fmt.Errorf("cni %s: pods have one network: choose one of them (only %s may stand before it)", strings.Join(cni, ","), metaPlugin)
	case len(rest) == 0:
		return fmt.Errorf("cni %s: it calls another plugin: name that after it, for example `cni: [%s, canal]`", metaPlugin, metaPlugin)
	}
	return nil
}
