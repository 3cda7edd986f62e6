package closure

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/rancher/rke2/charts"
)

// values are put together as a helm job does: the chart's own, the HelmChart's, the
// HelmChartConfig's, then spec.set.
func (p *prover) values(q queued, object string) charts.Values {
	h := q.chart
	var v charts.Values
	add := func(name, text string) {
		if text != "" {
			v.Texts = append(v.Texts, charts.Text{Name: name, YAML: []byte(text)})
		}
	}
	add("valuesContent of "+object, h.Spec.ValuesContent)
	v.Texts = append(v.Texts, p.secretValues(h, object, h.Spec.ValuesSecrets)...)
	key := h.Metadata.Namespace + "/" + h.Metadata.Name
	if c, ok := p.configs[key]; ok {
		add("valuesContent of HelmChartConfig "+key+" ("+c.source+")", c.Spec.ValuesContent)
		v.Texts = append(v.Texts, p.secretValues(h, "HelmChartConfig "+key, c.Spec.ValuesSecrets)...)
	}
	set := map[string]intstr.IntOrString{}
	maps.Copy(set, h.Spec.Set)
	if q.packaged && h.Metadata.Annotations[charts.InjectAnnotation] == "true" {
		for k, value := range p.in.Settings.clusterValues() {
			if value != "" {
				set[k] = intstr.FromString(value)
			}
		}
	}
	for _, k := range slices.Sorted(maps.Keys(set)) {
		value := set[k]
		if s := strings.ToLower(value.StrVal); value.Type == intstr.Int || s == "true" || s == "false" || s == "null" {
			v.Set = append(v.Set, k+"="+value.String())
			continue
		}
		v.SetString = append(v.SetString, k+"="+commas.ReplaceAllStringFunc(value.String(), escaped))
	}
	return v
}

// commas with what escapes them. Those that nothing escapes belong to the value.
var commas = regexp.MustCompile(`\\*,`)

func escaped(match string) string {
	if len(match)%2 == 1 {
		return `\` + match
	}
	return match
}

// secretValues gives what Secrets among the manifests hold; of others it is noted that
// they are not known.
func (p *prover) secretValues(h helmChart, object string, wanted []secretKeys) []charts.Text {
	var out []charts.Text
	for _, w := range wanted {
		secret, ok := p.secrets[h.Metadata.Namespace+"/"+w.Name]
		if !ok {
			p.note("%s takes values from Secret %s/%s, which is in no manifest: images that they bring are not in this list", object, h.Metadata.Namespace, w.Name)
			continue
		}
		for _, k := range w.Keys {
			if text, ok := secret[k]; ok {
				out = append(out, charts.Text{Name: fmt.Sprintf("Secret %s/%s, %s", h.Metadata.Namespace, w.Name, k), YAML: text})
			}
		}
	}
	return out
}
