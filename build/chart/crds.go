package chart

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/rancher/rke2/build/layer"
	"github.com/rancher/rke2/charts"
)

// keepAnnotation has helm leave an object where it is when its release goes: with a
// definition would go all objects of that kind.
const keepAnnotation = "helm.sh/resource-policy"

// templates makes templates of files with custom resource definitions.
func templates(from []layer.File) ([]charts.File, error) {
	var out []charts.File
	for _, f := range from {
		text, err := os.ReadFile(f.Source)
		if err != nil {
			return nil, fmt.Errorf("reading definitions: %w", err)
		}
		if text, err = template(text); err != nil {
			return nil, fmt.Errorf("%s: %w", f.Path, err)
		}
		out = append(out, charts.File{Name: path.Join("templates", path.Base(f.Path)), Data: text})
	}
	return out, nil
}

// template is a text of definitions that are kept, and that no template engine takes for
// anything but text.
func template(text []byte) ([]byte, error) {
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	for dec := yaml.NewDecoder(bytes.NewReader(text)); ; {
		var doc yaml.Node
		if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
		if len(doc.Content) == 0 || doc.Content[0].Tag == "!!null" {
			continue
		}
		if kind, err := find(&doc, []string{"kind"}); err != nil || kind.Value != "CustomResourceDefinition" {
			return nil, fmt.Errorf("line %d: not a CustomResourceDefinition: name the files that have only those under paths", doc.Content[0].Line)
		}
		metadata, err := find(&doc, []string{"metadata"})
		if err != nil {
			return nil, err
		}
		put(submap(metadata, "annotations"), keepAnnotation, "keep")
		if err := enc.Encode(&doc); err != nil {
			return nil, err
		}
	}
	if err := enc.Close(); err != nil {
		return nil, err
	}
	return []byte(strings.ReplaceAll(out.String(), "{{", `{{ "{{" }}`)), nil
}

// submap is the map at a key of a map, made where it is missing.
func submap(m *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == key && m.Content[i+1].Kind == yaml.MappingNode {
			return m.Content[i+1]
		}
	}
	made := &yaml.Node{Kind: yaml.MappingNode}
	m.Content = append(m.Content, scalar(key), made)
	return made
}

func put(m *yaml.Node, key, value string) {
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == key {
			m.Content[i+1] = scalar(value)
			return
		}
	}
	m.Content = append(m.Content, scalar(key), scalar(value))
}

func scalar(value string) *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Value: value} }
