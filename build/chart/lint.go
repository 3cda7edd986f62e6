package chart

import (
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"strings"

	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
)

// lint holds the chart against Helm's own linter; warnings are faults too.
func (s *source) lint() error {
	tmp, err := os.MkdirTemp("", "rke2-chart-")
	if err != nil {
		return fmt.Errorf("checking the chart: %w", err)
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	dir := filepath.Join(tmp, s.chart.Name) // the linter wants the chart's name
	for _, f := range s.files {
		path := filepath.Join(dir, filepath.FromSlash(f.Name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("checking the chart: %w", err)
		}
		if err := os.WriteFile(path, f.Data, 0o644); err != nil {
			return fmt.Errorf("checking the chart: %w", err)
		}
	}
	kube, err := chartutil.ParseKubeVersion(s.kube)
	if err != nil {
		return fmt.Errorf("checking the chart: version of Kubernetes %q: %w", s.kube, err)
	}
	defer log.SetOutput(log.Writer())
	log.SetOutput(io.Discard) // Helm's own remarks, which are among its messages
	var faults []string
	for _, m := range lint.AllWithKubeVersion(dir, nil, namespace, kube).Messages {
		if m.Severity >= support.WarningSev {
			faults = append(faults, fmt.Sprintf("%s: %v", filepath.Join(s.chart.Dir, m.Path), m.Err))
		}
	}
	if len(faults) > 0 {
		return fmt.Errorf("lint: %s", strings.ReplaceAll(strings.Join(faults, "\n  "), dir, s.chart.Dir))
	}
	return nil
}
