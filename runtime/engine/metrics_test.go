package engine

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rancher/rke2/runtime/timeline"
)

func TestStartMetrics(t *testing.T) {
	line := timeline.New(timeline.Cold, time.Now(), nil)
	line.Mark(timeline.Scan)
	line.Read(3, 4096)
	registry := prometheus.NewPedanticRegistry()
	if err := registry.Register(startMetrics{"v1+x", "v1", line}); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, family := range families {
		for _, m := range family.Metric {
			labels := ""
			for _, l := range m.Label {
				labels += " " + l.GetName() + "=" + l.GetValue()
			}
			got[family.GetName()+labels] = m.Gauge.GetValue()
		}
	}
	if got["rke2_build_info kubernetes=v1 version=v1+x"] != 1 || got["rke2_start_read_bytes"] != 4096 {
		t.Errorf("got %v", got)
	}
	if _, marked := got["rke2_start_phase_seconds phase=scan"]; !marked || len(got) != 3 {
		t.Errorf("got %v", got)
	}
}
