package chart

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// edit is a scalar of a YAML text that gets a value: the one at a path of keys, which
// must be there and have one of the old values.
type edit struct {
	path  []string
	old   []string
	value string
}

// set makes the edits in place, so that comments, order and style stay what they are.
// name is the file's, for errors.
func set(name string, text []byte, edits []edit) ([]byte, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	lines := strings.SplitAfter(string(text), "\n")
	type place struct {
		line, column, length int
		value                string
	}
	var places []place
	for _, e := range edits {
		n, err := find(&doc, e.path)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if n.Kind != yaml.ScalarNode || n.Tag != "!!str" || !slices.Contains(e.old, n.Value) {
			return nil, fmt.Errorf("%s:%d: %s is filled in when the chart is packaged: write %q", name, n.Line, strings.Join(e.path, "."), e.old[0])
		}
		token := written(n)
		line := []rune(lines[n.Line-1])
		if at := n.Column - 1; n.Style&yaml.TaggedStyle != 0 || at+len(token) > len(line) || string(line[at:at+len(token)]) != string(token) {
			return nil, fmt.Errorf("%s:%d: %s is filled in when the chart is packaged: write %q, without tag or anchor", name, n.Line, strings.Join(e.path, "."), e.old[0])
		}
		places = append(places, place{n.Line - 1, n.Column - 1, len(token), e.value})
	}
	// From the right, so that what comes before stays where it is.
	slices.SortFunc(places, func(a, b place) int { return b.column - a.column })
	for _, p := range places {
		line := []rune(lines[p.line])
		lines[p.line] = string(line[:p.column]) + `"` + p.value + `"` + string(line[p.column+p.length:])
	}
	return []byte(strings.Join(lines, "")), nil
}

// find follows keys through maps.
func find(doc *yaml.Node, path []string) (*yaml.Node, error) {
	n := doc
	if n.Kind == yaml.DocumentNode {
		n = n.Content[0]
	}
	for i, key := range path {
		var next *yaml.Node
		for j := 0; n.Kind == yaml.MappingNode && j+1 < len(n.Content); j += 2 {
			if n.Content[j].Value == key {
				next = n.Content[j+1]
			}
		}
		if next == nil {
			return nil, fmt.Errorf("there is no %s, which is filled in when the chart is packaged", strings.Join(path[:i+1], "."))
		}
		n = next
	}
	return n, nil
}

// written is how the scalar stands in the text.
func written(n *yaml.Node) []rune {
	switch n.Style {
	case yaml.DoubleQuotedStyle:
		return []rune(`"` + n.Value + `"`)
	case yaml.SingleQuotedStyle:
		return []rune("'" + n.Value + "'")
	}
	return []rune(n.Value)
}
