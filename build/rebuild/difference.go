package rebuild

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"reflect"
	"sort"
	"strings"
)

// Difference is the first thing in which two images differ.
type Difference struct {
	Part        string  `json:"part"`                  // layer, config, manifest, index, blob or the name of a file beside the layout
	Layer       int     `json:"layer,omitempty"`       // which one, from 1
	Instruction string  `json:"instruction,omitempty"` // of the Dockerfile, that made the layer
	File        string  `json:"file,omitempty"`        // path in the image
	What        string  `json:"what"`                  // attribute, or place in a JSON document
	Built       string  `json:"built,omitempty"`       // value of it
	Rebuilt     string  `json:"rebuilt,omitempty"`
	Bytes       *Window `json:"bytes,omitempty"` // where content differs
	Hint        string  `json:"hint,omitempty"`  // what those bytes are, of a program
}

// Window shows where two streams of bytes part.
type Window struct {
	Offset  int64    `json:"offset"`  // of the first byte that differs, from 0
	Built   []string `json:"built"`   // hex dump around it, 16 bytes a line
	Rebuilt []string `json:"rebuilt"` // the same of the other
}

// String explains the difference in a few lines.
func (d *Difference) String() string {
	var b strings.Builder
	b.WriteString(d.Part)
	if d.Layer > 0 {
		fmt.Fprintf(&b, " %d", d.Layer)
	}
	if d.Instruction != "" {
		fmt.Fprintf(&b, " (%s)", d.Instruction)
	}
	if d.File != "" {
		fmt.Fprintf(&b, ", file %s", d.File)
	}
	fmt.Fprintf(&b, ": %s", d.What)
	if d.Bytes != nil {
		fmt.Fprintf(&b, " at byte %d", d.Bytes.Offset)
	}
	if d.Hint != "" {
		fmt.Fprintf(&b, " (%s)", d.Hint)
	}
	if d.Built != "" || d.Rebuilt != "" {
		fmt.Fprintf(&b, "\n  built:   %s\n  rebuilt: %s", d.Built, d.Rebuilt)
	}
	if d.Bytes != nil {
		for _, s := range []struct {
			name  string
			lines []string
		}{{"built", d.Bytes.Built}, {"rebuilt", d.Bytes.Rebuilt}} {
			for i, line := range s.lines {
				name := ""
				if i == 0 {
					name = s.name + ":"
				}
				fmt.Fprintf(&b, "\n  %-8s %s", name, line)
			}
		}
	}
	return b.String()
}

// differentJSON finds the first value, in the order of sorted keys, in which two
// documents differ. It is nil if their values are equal.
func differentJSON(part string, a, b any) (*Difference, error) {
	va, err := generic(a)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", part, err)
	}
	vb, err := generic(b)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", part, err)
	}
	path, x, y, differ := walk("", va, vb)
	if !differ {
		return nil, nil
	}
	return &Difference{Part: part, What: first(path, "."), Built: brief(x), Rebuilt: brief(y)}, nil
}

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

func generic(v any) (any, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	var out any
	return out, json.Unmarshal(data, &out)
}

type absent struct{}

func walk(path string, a, b any) (where string, x, y any, differ bool) {
	switch ta := a.(type) {
	case map[string]any:
		tb, ok := b.(map[string]any)
		if !ok {
			return path, a, b, true
		}
		keys := map[string]bool{}
		for k := range ta {
			keys[k] = true
		}
		for k := range tb {
			keys[k] = true
		}
		var sorted []string
		for k := range keys {
			sorted = append(sorted, k)
		}
		sort.Strings(sorted)
		for _, k := range sorted {
			va, okA := ta[k]
			vb, okB := tb[k]
			if !okA {
				va = absent{}
			}
			if !okB {
				vb = absent{}
			}
			if p, x, y, differ := walk(path+"."+k, va, vb); differ {
				return p, x, y, true
			}
		}
		return "", nil, nil, false
	case []any:
		tb, ok := b.([]any)
		if !ok {
			return path, a, b, true
		}
		for i := range min(len(ta), len(tb)) {
			if p, x, y, differ := walk(fmt.Sprintf("%s[%d]", path, i), ta[i], tb[i]); differ {
				return p, x, y, true
			}
		}
		if len(ta) != len(tb) {
			return path, a, b, true
		}
		return "", nil, nil, false
	}
	return path, a, b, !reflect.DeepEqual(a, b)
}

// brief is a value in one line.
func brief(v any) string {
	if _, ok := v.(absent); ok {
		return "(missing)"
	}
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	const most = 200
	if len(data) > most {
		return strings.ToValidUTF8(string(data[:most]), "") + "…"
	}
	return string(data)
}

// rawJSON is a document, or a string if the bytes are none.
func rawJSON(data []byte) any {
	if json.Valid(data) {
		return json.RawMessage(data)
	}
	return string(data)
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}
