package charts

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"testing"
)

// random is what the chart makes anew each time.
var random = regexp.MustCompile(`"password":"\w+"`)

// TestSameAsHelm compares with what Helm's own command makes of the same chart and
// values. testdata/shop.helm.yaml was written by Helm v3.19.5 with:
//
//	helm template web testdata/charts/shop --namespace shops --kube-version v1.35.4 --include-crds \
//	  -f testdata/shop.values.yaml --api-versions monitoring.coreos.com/v1 | sed 's/password: .*/password: RANDOM/'
func TestSameAsHelm(t *testing.T) {
	ours, err := mustLoad(t, shop).Render(t.Context(), Options{
		Name: "web", Namespace: "shops", KubeVersion: "v1.35.4", IncludeCRDs: true, IncludeTests: true,
		APIVersions: []string{"monitoring.coreos.com/v1"}, Values: Values{Files: []string{"testdata/shop.values.yaml"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("testdata/shop.helm.yaml")
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := ParseObjects("helm", text)
	if err != nil {
		t.Fatal(err)
	}
	// Helm sorts by kind, and puts hooks last.
	contents := func(objects []Object) []string {
		var out []string
		for _, o := range objects {
			var v any
			if err := json.Unmarshal(o.Raw, &v); err != nil {
				t.Fatal(err)
			}
			b, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, o.String()+" "+random.ReplaceAllString(string(b), `"password":"RANDOM"`))
		}
		slices.Sort(out)
		return out
	}
	got, want := contents(ours), contents(theirs)
	if len(got) != len(want) {
		t.Fatalf("%d objects, and Helm makes %d", len(got), len(want))
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("got\n%s\nHelm makes\n%s", got[i], want[i])
		}
	}
}
