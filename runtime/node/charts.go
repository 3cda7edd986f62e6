package node

import (
	"bufio"
	"bytes"
	"errors"
	"io"

	k8syaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"github.com/rancher/rke2/charts"
)

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
