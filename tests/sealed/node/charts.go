package node

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
)

// withoutCharts are a server's settings with which none of the packaged charts is deployed.
// Every chart of the source tree is named, but not to a binary that packages none.
func withoutCharts(binary string) (map[string]any, error) {
	config := map[string]any{"cni": "none", "ingress-controller": "none", "disable-kube-proxy": true}
	if binary == "" {
		p, err := FindProducts()
		if err != nil {
			return nil, err
		}
		binary = p.Binary
	}
	help, err := exec.Command(binary, "server", "--help").Output()
	if err != nil {
		return nil, fmt.Errorf("asking %s for its options: %w", binary, err)
	}
	if !strings.Contains(string(help), "--ingress-controller") {
		return config, nil
	}
	config["disable"], err = charts()
	return config, err
}

// charts lists the packaged charts by name.
func charts() ([]string, error) {
	root, err := moduleRoot()
	if err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(root, "charts", "*", "Chart.yaml"))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, f := range files {
		names = append(names, filepath.Base(filepath.Dir(f)))
	}
	return names, nil
}
