package charts

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

const shop = "testdata/charts/shop"

func mustLoad(t *testing.T, path string) *Chart {
	t.Helper()
	c, err := Load(t.Context(), Ref{Chart: path}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// lines are uses in one line each, for comparison.
func lines(uses []Use) []string {
	var out []string
	for _, u := range uses {
		out = append(out, fmt.Sprintf("%s %s %s %s %s", u.Reference, u.Chart, u.Object, u.Container, u.Certainty))
	}
	slices.Sort(out)
	return out
}

func TestImagesOfAChart(t *testing.T) {
	c := mustLoad(t, shop)
	if c.Name != "shop" || c.Version != "1.2.3" || c.AppVersion != "4.5" {
		t.Fatalf("got %s %s %s", c.Name, c.Version, c.AppVersion)
	}
	objects, err := c.Render(t.Context(), Options{Name: "web", Namespace: "shops", KubeVersion: "v1.35.4+rke2r1", IncludeCRDs: true})
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Split(strings.TrimSpace(`
docker.io/library/busybox:1.37 shop ConfigMap/helper helper needed
docker.io/library/busybox:latest shop Deployment shops/web-server wait needed
quay.io/example/reloader:v3 shop Deployment shops/web-server server possible
quay.io/example/solver:v2 shop Deployment shops/web-server server needed
registry.example.com/cache/small:7.2 shop/cache StatefulSet/web-cache cache needed
registry.example.com/shop/agent:7 shop Queue/orders agent needed
registry.example.com/shop/migrate:1 shop Job/migrate migrate needed
registry.example.com/shop/queue:7 shop Queue/orders  needed
registry.example.com/shop/server:4.5 shop Deployment shops/web-server server needed
registry.example.com/shop/sidecar@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef shop Deployment shops/web-server server needed
registry.example.com/shop/site:1 shop Deployment shops/web-server  needed
registry.example.com/shop/tidy:1 shop CronJob/tidy tidy needed
registry.example.com/shop/worker:4.5 shop Deployment shops/web-server worker needed
`), "\n")
	got := lines(Images(objects))
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
