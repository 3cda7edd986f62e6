package charts

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"sigs.k8s.io/yaml"
)

// Object is a Kubernetes object that was rendered or read.
type Object struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Namespace  string `json:"namespace,omitempty"`
	Name       string `json:"name"`
	// Source is the file that it is in, or the template that made it
	// (chart/charts/subchart/templates/name.yaml).
	Source string `json:"source"`
	// Chart is the chart and subchart that made it, joined with "/"; "" if none did.
	Chart string `json:"chart,omitempty"`
	// Hooks are the events that Helm makes it at, none for what is installed as such.
	Hooks []string `json:"hooks,omitempty"`
	// Annotations are those of its metadata.
	Annotations map[string]string `json:"annotations,omitempty"`
	// Raw is the whole object in JSON.
	Raw json.RawMessage `json:"raw"`
}

// String is the object as kubectl would ask for it.
func (o Object) String() string {
	s := o.Kind + "/" + o.Name
	if o.Namespace != "" {
		s = o.Kind + " " + o.Namespace + "/" + o.Name
	}
	return s
}

// head is what Object takes from an object's JSON.
type head struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name         string            `json:"name"`
		GenerateName string            `json:"generateName"`
		Namespace    string            `json:"namespace"`
		Annotations  map[string]string `json:"annotations"`
	} `json:"metadata"`
	Items []json.RawMessage `json:"items"`
}

// maxListDepth bounds lists within lists.
const maxListDepth = 4

// ParseObjects reads the objects of a YAML or JSON text with any number of documents.
// Lists are taken apart. source is what errors and objects name.
func ParseObjects(source string, text []byte) ([]Object, error) {
	var out []Object
	docs, err := documents(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", source, err)
	}
	for i, doc := range docs {
		raw, err := yaml.YAMLToJSON(doc)
		if err != nil {
			return nil, fmt.Errorf("%s: document %d: %w", source, i+1, err)
		}
		if string(raw) == "null" {
			continue // comments only
		}
		objects, err := parseObject(source, raw, head{}, 0)
		if err != nil {
			return nil, fmt.Errorf("%s: document %d: %w", source, i+1, err)
		}
		out = append(out, objects...)
	}
	return out, nil
}

// documents splits at lines that begin with ---, or takes JSON texts one after another.
func documents(text []byte) ([][]byte, error) {
	text = trimBOM(text)
	if start := bytes.TrimSpace(text); bytes.HasPrefix(start, []byte("{")) {
		var docs [][]byte
		dec := json.NewDecoder(bytes.NewReader(start))
		for {
			var doc json.RawMessage
			err := dec.Decode(&doc)
			if errors.Is(err, io.EOF) {
				return docs, nil
			}
			if err != nil {
				break // YAML's flow style begins the same
			}
			docs = append(docs, doc)
		}
	}
	var docs [][]byte
	var doc []byte
	for line := range bytes.Lines(text) {
		if rest, ok := bytes.CutPrefix(line, []byte("---")); ok && (len(bytes.TrimSpace(rest)) == 0 || rest[0] == ' ' || rest[0] == '\t') {
			docs, doc = append(docs, doc), nil
			if c := bytes.TrimSpace(rest); len(c) > 0 && c[0] != '#' {
				doc = append(doc, rest...)
			}
			continue
		}
		if bytes.HasPrefix(line, []byte("%")) && len(bytes.TrimSpace(doc)) == 0 {
			continue // a directive
		}
		if bytes.Equal(bytes.TrimRight(line, " \t\r\n"), []byte("...")) {
			docs, doc = append(docs, doc), nil
			continue
		}
		doc = append(doc, line...)
	}
	return append(docs, doc), nil
}

func parseObject(source string, raw json.RawMessage, in head, depth int) ([]Object, error) {
	var h head
	if err := json.Unmarshal(raw, &h); err != nil {
		return nil, fmt.Errorf("not a Kubernetes object: %w", err)
	}
	// The items of a typed list may leave out what the list says.
	h.APIVersion, h.Kind = or(h.APIVersion, in.APIVersion), or(h.Kind, in.Kind)
	if h.Kind == "" || h.APIVersion == "" {
		return nil, errors.New("not a Kubernetes object: it has no apiVersion and kind")
	}
	if strings.HasSuffix(h.Kind, "List") && h.Items != nil {
		if depth == maxListDepth {
			return nil, fmt.Errorf("%w: lists are nested more than %d deep", ErrRefused, maxListDepth)
		}
		of := head{Kind: strings.TrimSuffix(h.Kind, "List")}
		if of.Kind != "" {
			of.APIVersion = h.APIVersion
		}
		var out []Object
		for i, item := range h.Items {
			objects, err := parseObject(source, item, of, depth+1)
			if err != nil {
				return nil, fmt.Errorf("item %d of %s: %w", i, h.Kind, err)
			}
			out = append(out, objects...)
		}
		return out, nil
	}
	o := Object{
		APIVersion: h.APIVersion, Kind: h.Kind, Namespace: h.Metadata.Namespace, Name: or(h.Metadata.Name, h.Metadata.GenerateName),
		Source: source, Annotations: h.Metadata.Annotations, Raw: raw,
	}
	for _, event := range strings.Split(h.Metadata.Annotations["helm.sh/hook"], ",") {
		if event = strings.TrimSpace(event); event != "" {
			o.Hooks = append(o.Hooks, event)
		}
	}
	return []Object{o}, nil
}

// Test reports whether the object is made only by `helm test`.
func (o Object) Test() bool {
	for _, h := range o.Hooks {
		if h != "test" && h != "test-success" && h != "test-failure" {
			return false
		}
	}
	return len(o.Hooks) > 0
}
