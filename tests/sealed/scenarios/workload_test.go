//go:build linux

package scenarios

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/tests/fake"
	"github.com/rancher/rke2/tests/sealed/node"
)

// What the workload's program (images/echo) prints, a line of JSON each.
type (
	echoAnswer struct {
		App, Pod, Node, Host, Path, From, ForwardedFor, ForwardedProto string
	}
	echoGot struct {
		URL    string
		Status int
		Answer *echoAnswer
		Error  string
	}
	echoResolved struct {
		Name      string
		Addresses []string
		Error     string
	}
	echoLoad struct {
		Requests, Failed int
		By               map[string]int
		Errors           []string
		SlowestSeconds   float64
	}
)

// echoSet is the set that the workload's image declares: no bundle of the product is
// made of it.
const echoSet = "test"

// echoBundle is a bundle of the workload's image, made from the layout as the product's
// bundles are, and the image's reference.
func echoBundle(t *testing.T, p node.Products) (bundle, reference string) {
	t.Helper()
	layout := airgap.Layout(p.Layout)
	store := fake.Store{Base: layout}
	idx, err := layout.Index()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range idx.Manifests {
		switch sets := strings.Split(d.Annotations[airgap.AnnotationSets], ","); {
		case d.Annotations[airgap.AnnotationKind] == airgap.KindSignatures:
			store.AddSignatures(d)
		case d.Annotations[airgap.AnnotationKind] == airgap.KindImage && slices.Contains(sets, echoSet):
			reference = d.Annotations[airgap.AnnotationImageName]
			store.AddBase(d, reference)
		}
	}
	if reference == "" {
		t.Fatalf("%s has no image of set %s: `make airgap` builds it from images/echo", p.Layout, echoSet)
	}
	bundle = filepath.Join(t.TempDir(), "site-echo.tar")
	if err := store.WriteBundle(t.Context(), bundle, runtime.GOARCH); err != nil {
		t.Fatal(err)
	}
	return bundle, reference
}

// echoPod is a pod of the workload on one node, with the labels of its name and more.
func (c *charted) echoPod(namespace, name, on, labels string) string {
	return fmt.Sprintf(`---
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: %s, labels: {app: %s%s}}
spec:
  nodeName: %s
  terminationGracePeriodSeconds: 1
  containers:
%s`, name, namespace, name, labels, on, c.echoContainer(0))
}

// echoContainer is the container of the workload, which answers for so many seconds after
// it was told to end.
func (c *charted) echoContainer(drain int) string {
	return fmt.Sprintf(`  - name: echo
    image: %s
    args: [serve, -drain=%ds]
    env:
    - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    - {name: APP, valueFrom: {fieldRef: {fieldPath: "metadata.labels['app']"}}}
    readinessProbe: {httpGet: {port: 8080, path: /ready}, periodSeconds: 1}
`, c.echo, drain)
}

// echoIn runs the workload's program in one of its pods and reads what it prints. An
// error is what kept it from printing; that a question failed is in the answers.
func echoIn[T any](ctx context.Context, c *charted, namespace, pod string, args ...string) ([]T, error) {
	return echoFed[T](ctx, c, nil, namespace, pod, args...)
}

// echoFed is echoIn with a standard input.
func echoFed[T any](ctx context.Context, c *charted, in io.Reader, namespace, pod string, args ...string) ([]T, error) {
	words := []string{"exec", "-n", namespace, pod}
	if in != nil {
		words = append(words, "-i")
	}
	cmd := c.server.Command(ctx, "kubectl", append(append(words, "--", "/echo"), args...)...)
	cmd.Stdin = in
	out, failed := cmd.Output()
	var all []T
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var one T
		err := d.Decode(&one)
		if errors.Is(err, io.EOF) && len(all) > 0 {
			return all, nil
		}
		if err != nil {
			return nil, fmt.Errorf("running echo %s in pod %s: %w (%w)\n%s", args[0], pod, failed, err, out)
		}
		all = append(all, one)
	}
}

// said is what one question gave, in a line for people.
func (g echoGot) said() string {
	switch {
	case g.Error != "":
		return fmt.Sprintf("%-52s ✗ %s", g.URL, g.Error)
	case g.Answer == nil:
		return fmt.Sprintf("%-52s %d, by another program", g.URL, g.Status)
	}
	return fmt.Sprintf("%-52s %d %s on %s, asked from %s", g.URL, g.Status, g.Answer.Pod, g.Answer.Node, g.Answer.From)
}
