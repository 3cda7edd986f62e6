package pod

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Resources are amounts by resource name, "cpu" and "memory", as Kubernetes
// quantities.
type Resources map[corev1.ResourceName]string

// Timing is how a probe asks; 0 leaves a value as this package has it. All but
// Failures are seconds.
type Timing struct {
	InitialDelay, Period, Timeout, Failures int32
}

// Timings are those of a component's probes, by kind: startup, liveness, readiness.
type Timings map[string]Timing

// tunable are the components that the options of this file may name. Those that
// this product does not run may be named too: configurations are carried over.
var tunable = []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler", "etcd", "kube-proxy", "cloud-controller-manager"}

// ParseResources reads COMPONENT-RESOURCE=QUANTITY, such as kube-apiserver-cpu=500m,
// by component. An item may hold several, joined by commas. option is for errors.
func ParseResources(option string, items []string) (map[string]Resources, error) {
	out := map[string]Resources{}
	err := each(option, items, "COMPONENT-cpu=QUANTITY or COMPONENT-memory=QUANTITY", func(component, what, value string) error {
		if what != "cpu" && what != "memory" {
			return fmt.Errorf("%q is not a resource: want cpu or memory", what)
		}
		if _, err := resource.ParseQuantity(value); err != nil {
			return fmt.Errorf("%q is not a quantity such as 500m or 512Mi", value)
		}
		if out[component] == nil {
			out[component] = Resources{}
		}
		out[component][corev1.ResourceName(what)] = value
		return nil
	})
	return out, err
}

// ParseTimings reads COMPONENT-PROBE-VALUE=NUMBER, such as
// etcd-startup-failure-threshold=60, by component. The values are
// initial-delay-seconds, period-seconds, timeout-seconds and failure-threshold.
func ParseTimings(option string, items []string) (map[string]Timings, error) {
	out := map[string]Timings{}
	const form = "COMPONENT-startup|liveness|readiness-initial-delay-seconds|period-seconds|timeout-seconds|failure-threshold=NUMBER"
	err := each(option, items, form, func(component, what, value string) error {
		kind, field, _ := strings.Cut(what, "-")
		if !slices.Contains([]string{"startup", "liveness", "readiness"}, kind) {
			return fmt.Errorf("%q is not a probe: want startup, liveness or readiness", kind)
		}
		n, err := strconv.ParseInt(value, 10, 32)
		if err != nil || n < 0 || n == 0 && field != "initial-delay-seconds" {
			return fmt.Errorf("%q is not a number of at least 1", value)
		}
		if out[component] == nil {
			out[component] = Timings{}
		}
		t := out[component][kind]
		fields := map[string]*int32{
			"initial-delay-seconds": &t.InitialDelay, "period-seconds": &t.Period,
			"timeout-seconds": &t.Timeout, "failure-threshold": &t.Failures,
		}
		if fields[field] == nil {
			return fmt.Errorf("%q is not a value of a probe: want initial-delay-seconds, period-seconds, timeout-seconds or failure-threshold", field)
		}
		*fields[field] = int32(n)
		out[component][kind] = t
		return nil
	})
	return out, err
}

// each takes COMPONENT-WHAT=VALUE items apart.
func each(option string, items []string, form string, take func(component, what, value string) error) error {
	for _, item := range items {
		for _, one := range strings.Split(item, ",") {
			one = strings.TrimSpace(one)
			if one == "" {
				continue
			}
			name, value, ok := strings.Cut(one, "=")
			if !ok {
				return fmt.Errorf("%s %q: want %s", option, one, form)
			}
			at := slices.IndexFunc(tunable, func(c string) bool { return strings.HasPrefix(name, c+"-") })
			if at < 0 {
				return fmt.Errorf("%s %q: it starts with no component: want %s, with one of %s", option, one, form, strings.Join(tunable, ", "))
			}
			what := strings.TrimPrefix(name, tunable[at]+"-")
			if err := take(tunable[at], what, strings.TrimSpace(value)); err != nil {
				return fmt.Errorf("%s %q: %w", option, one, err)
			}
		}
	}
	return nil
}

// Over are these amounts with others in their place where there are such.
func (r Resources) Over(others Resources) Resources {
	out := Resources{}
	for name, value := range r {
		out[name] = value
	}
	for name, value := range others {
		out[name] = value
	}
	return out
}

// amounts are what a component asks for and may use. A request above its limit,
// which a kubelet refuses, is lowered to the limit.
func amounts(c Component) (corev1.ResourceRequirements, error) {
	var r corev1.ResourceRequirements
	var err error
	if r.Requests, err = quantities(c.Name, "request", c.Requests); err != nil {
		return r, err
	}
	if r.Limits, err = quantities(c.Name, "limit", c.Limits); err != nil {
		return r, err
	}
	for name, limit := range r.Limits {
		if request, ok := r.Requests[name]; ok && request.Cmp(limit) > 0 {
			r.Requests[name] = limit
		}
	}
	return r, nil
}

func quantities(component, kind string, amounts Resources) (corev1.ResourceList, error) {
	var list corev1.ResourceList
	for name, value := range amounts {
		quantity, err := resource.ParseQuantity(value)
		if err != nil {
			return nil, fmt.Errorf("static pod %s: %s %s %q: %w", component, name, kind, value, err)
		}
		if list == nil {
			list = corev1.ResourceList{}
		}
		list[name] = quantity
	}
	return list, nil
}

// timed sets what a Timing says of a probe.
func timed(p *corev1.Probe, t Timing) *corev1.Probe {
	if p == nil {
		return nil
	}
	for _, s := range []struct {
		value *int32
		to    int32
	}{
		{&p.InitialDelaySeconds, t.InitialDelay}, {&p.PeriodSeconds, t.Period},
		{&p.TimeoutSeconds, t.Timeout}, {&p.FailureThreshold, t.Failures},
	} {
		if s.to != 0 {
			*s.value = s.to
		}
	}
	return p
}
