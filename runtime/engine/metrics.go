package engine

import (
	"fmt"

	"github.com/k3s-io/k3s/pkg/metrics"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/rancher/rke2/runtime/timeline"
)

// startMetrics are what a node says of itself beside the engine's metrics, on
// /metrics of the supervisor's port (supervisor-metrics): what it is, and where the time
// of its start went.
type startMetrics struct {
	version, kubernetes string
	line                *timeline.Line
}

var _ prometheus.Collector = startMetrics{}

func buildInfo() *prometheus.Desc {
	return prometheus.NewDesc("rke2_build_info", "The release that this node runs.", []string{"version", "kubernetes"}, nil)
}

func phaseSeconds() *prometheus.Desc {
	return prometheus.NewDesc("rke2_start_phase_seconds", "Seconds from the start of rke2 until a phase was reached.", []string{"phase"}, nil)
}

func bytesRead() *prometheus.Desc {
	return prometheus.NewDesc("rke2_start_read_bytes", "Bytes of images that were read from bundles and registries since the start of rke2.", nil, nil)
}

// Describe implements prometheus.Collector.
func (startMetrics) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{buildInfo(), phaseSeconds(), bytesRead()} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (m startMetrics) Collect(out chan<- prometheus.Metric) {
	out <- prometheus.MustNewConstMetric(buildInfo(), prometheus.GaugeValue, 1, m.version, m.kubernetes)
	for phase, after := range m.line.Marks() {
		out <- prometheus.MustNewConstMetric(phaseSeconds(), prometheus.GaugeValue, after.Seconds(), string(phase))
	}
	_, bytes := m.line.Totals()
	out <- prometheus.MustNewConstMetric(bytesRead(), prometheus.GaugeValue, float64(bytes))
}

// registerMetrics adds the node's own metrics to the engine's, once in a process.
func (e *Executor) registerMetrics() error {
	own := startMetrics{e.config.Release.Version, e.config.Release.Kubernetes, e.content.Timeline()}
	if err := metrics.DefaultRegisterer.Register(own); err != nil {
		return fmt.Errorf("registering metrics: %w", err)
	}
	return nil
}
