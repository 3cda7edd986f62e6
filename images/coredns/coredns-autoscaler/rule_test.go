package main

import "testing"

func TestReplicas(t *testing.T) {
	normal := rule{coresPerReplica: 256, nodesPerReplica: 16, min: 1, noSinglePoint: true}
	for _, c := range []struct {
		name  string
		rule  rule
		nodes int
		cores float64
		want  int
	}{
		{"one node", normal, 1, 4, 1},
		{"two nodes need two", normal, 2, 4, 2},
		{"one will do", rule{coresPerReplica: 256, nodesPerReplica: 16, min: 1}, 2, 4, 1},
		{"by nodes", normal, 33, 33, 3},
		{"by cores", normal, 3, 513, 3},
		{"exactly full", normal, 32, 512, 2},
		{"cores in parts", rule{coresPerReplica: 0.5, nodesPerReplica: 16, min: 1}, 1, 1.1, 3},
		{"at least", rule{coresPerReplica: 256, nodesPerReplica: 16, min: 4, noSinglePoint: true}, 1, 1, 4},
		{"at most", rule{coresPerReplica: 256, nodesPerReplica: 1, min: 1, max: 5}, 100, 1, 5},
		{"at most one, whatever else", rule{coresPerReplica: 256, nodesPerReplica: 16, min: 1, max: 1, noSinglePoint: true}, 9, 9, 1},
		{"more than a scale can say", rule{coresPerReplica: 1e-300, nodesPerReplica: 16, min: 1, max: 7}, 1, 1e300, 7},
	} {
		if got := c.rule.replicas(size{c.nodes, c.cores}); got != c.want {
			t.Errorf("%s: %d servers for %d nodes with %v cores, want %d", c.name, got, c.nodes, c.cores, c.want)
		}
	}
}

func TestRefusedRules(t *testing.T) {
	good := rule{coresPerReplica: 1, nodesPerReplica: 1, min: 1}
	if err := good.check(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*rule){
		"no cores":         func(r *rule) { r.coresPerReplica = 0 },
		"negative nodes":   func(r *rule) { r.nodesPerReplica = -1 },
		"none at least":    func(r *rule) { r.min = 0 },
		"negative at most": func(r *rule) { r.max = -1 },
		"crossed":          func(r *rule) { r.min, r.max = 3, 2 },
	} {
		r := good
		spoil(&r)
		if r.check() == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestParseCores(t *testing.T) {
	for in, want := range map[string]float64{"4": 4, "3920m": 3.92, "0.5": 0.5, "1k": 1000, "0": 0} {
		if got, err := parseCores(in); err != nil || got != want {
			t.Errorf("%q: %v, %v, want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "m", "-1", "four", "4Gi", "NaN", "Inf", "1e400"} {
		if got, err := parseCores(in); err == nil {
			t.Errorf("%q is taken for %v", in, got)
		}
	}
}
