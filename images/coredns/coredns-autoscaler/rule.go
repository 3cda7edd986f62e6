package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// rule says how many servers a cluster needs.
type rule struct {
	coresPerReplica, nodesPerReplica float64
	min, max                         int // max 0: no limit
	noSinglePoint                    bool
}

func (r rule) check() error {
	switch {
	case !(r.coresPerReplica > 0) || !(r.nodesPerReplica > 0):
		return fmt.Errorf("%v cores and %v nodes a server: both must be above 0", r.coresPerReplica, r.nodesPerReplica)
	case r.min < 1:
		return fmt.Errorf("at least %d servers: without one there is no DNS", r.min)
	case r.max < 0 || r.max > 0 && r.max < r.min:
		return fmt.Errorf("at most %d servers, but at least %d", r.max, r.min)
	}
	return nil
}

// replicas for a cluster of that size.
func (r rule) replicas(s size) int {
	n := math.Max(math.Ceil(s.cores/r.coresPerReplica), math.Ceil(float64(s.nodes)/r.nodesPerReplica))
	want := r.min
	if n > math.MaxInt32 {
		n = math.MaxInt32 // what a scale can say
	}
	if int(n) > want {
		want = int(n)
	}
	if r.noSinglePoint && s.nodes > 1 && want < 2 {
		want = 2
	}
	if r.max > 0 && want > r.max {
		want = r.max
	}
	return want
}

// parseCores reads a quantity of CPU as a node tells it: "4", "3920m", "0.5".
func parseCores(quantity string) (float64, error) {
	number, scale := quantity, 1.0
	if rest, milli := strings.CutSuffix(quantity, "m"); milli {
		number, scale = rest, 1000
	} else if rest, kilo := strings.CutSuffix(quantity, "k"); kilo {
		number, scale = rest, 1.0/1000
	}
	cores, err := strconv.ParseFloat(number, 64)
	if err != nil || cores < 0 || math.IsInf(cores, 0) || math.IsNaN(cores) {
		return 0, fmt.Errorf("%q is no quantity of CPU", quantity)
	}
	return cores / scale, nil
}
