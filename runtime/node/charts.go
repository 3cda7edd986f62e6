package node

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	k8syaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"github.com/rancher/rke2/charts"
	"github.com/rancher/rke2/runtime/config"
	"github.com/rancher/rke2/runtime/durable"
	"github.com/rancher/rke2/runtime/stage"
)

// deliverCharts copies the staged charts to where the deploy controller looks.
// Only servers have one, and what the user put there stays. Charts that ask for
// the cluster's settings get them as values.
func deliverCharts(root stage.Root, c config.Config) error {
	if c.Role != config.Server {
		return nil
	}
	entries, err := os.ReadDir(root.Charts())
	if err != nil {
		return fmt.Errorf("delivering charts: %w", err)
	}
	folder := filepath.Join(c.DataDir, "server", "manifests")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return fmt.Errorf("delivering charts: %w", err)
	}
	values := c.Cluster.Values(c.DataDir, c.SystemDefaultRegistry)
	for _, entry := range entries {
		raw, err := os.ReadFile(filepath.Join(root.Charts(), entry.Name()))
		if err != nil {
			return fmt.Errorf("delivering charts: %w", err)
		}
		if raw, err = inject(raw, values); err != nil {
			return fmt.Errorf("delivering charts: %s: %w", entry.Name(), err)
		}
		if err := durable.WriteFile(filepath.Join(folder, entry.Name()), raw, 0o600); err != nil {
			return fmt.Errorf("delivering charts: %w", err)
		}
	}
	return nil
}

// inject sets values in spec.set of the HelmCharts of a manifest that are annotated to ask
// for them. A manifest without any stays byte for byte what it is.
func inject(manifest []byte, values map[string]string) ([]byte, error) {
	if !bytes.Contains(manifest, []byte(charts.InjectAnnotation)) {
		return manifest, nil
	}
	var out bytes.Buffer
	documents := k8syaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(manifest)))
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return out.Bytes(), nil
		}
		if err != nil {
			return nil, err
		}
		object := map[string]any{}
		if err := yaml.Unmarshal(document, &object); err != nil {
			return nil, err
		}
		if asks(object) {
			spec := child(object, "spec")
			set := child(spec, "set")
			for k, v := range values {
				set[k] = v
			}
			if document, err = yaml.Marshal(object); err != nil {
				return nil, err
			}
		}
		if out.Len() > 0 {
			out.WriteString("---\n")
		}
		out.Write(document)
	}
}

func asks(object map[string]any) bool {
	metadata, _ := object["metadata"].(map[string]any)
	annotations, _ := metadata["annotations"].(map[string]any)
	return object["kind"] == "HelmChart" && annotations[charts.InjectAnnotation] == "true"
}

// child is a map in a map, made if it is not there.
func child(of map[string]any, key string) map[string]any {
	m, ok := of[key].(map[string]any)
	if !ok {
		m = map[string]any{}
		of[key] = m
	}
	return m
}
