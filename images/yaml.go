package images

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// text is a string of a declaration that remembers its line, for errors that are
// found after decoding.
type text struct {
	value string
	line  int
}

func (t *text) UnmarshalYAML(n *yaml.Node) error {
	t.line = n.Line
	return n.Decode(&t.value)
}

var (
	unknownKey = regexp.MustCompile(`^line (\d+): field (\S+) not found in type \S+$`)
	atLine     = regexp.MustCompile(`^(?:yaml: )?line (\d+): (.*)$`)
)

// decodeFile reads exactly one YAML document from path into out. Unknown and repeated
// keys, wrong types and further documents are errors that name file and line.
func decodeFile(path string, out any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("reading declaration: %w", err)
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(out); err != nil {
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("%s: the declaration is empty", path)
		}
		return located(path, err)
	}
	var more yaml.Node
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s:%d: a second document; a declaration is one", path, max(more.Line, 1))
	}
	return nil
}

// located rewrites the yaml package's errors as file:line: what.
func located(path string, err error) error {
	lines := []string{err.Error()}
	var te *yaml.TypeError
	if errors.As(err, &te) {
		lines = te.Errors
	}
	for i, l := range lines {
		if m := unknownKey.FindStringSubmatch(l); m != nil {
			lines[i] = fmt.Sprintf("%s:%s: unknown key %q", path, m[1], m[2])
		} else if m := atLine.FindStringSubmatch(l); m != nil {
			lines[i] = fmt.Sprintf("%s:%s: %s", path, m[1], m[2])
		} else {
			lines[i] = path + ": " + strings.TrimPrefix(l, "yaml: ")
		}
	}
	return errors.New(strings.Join(lines, "\n"))
}

// at makes an error for one line of a declaration.
func at(path string, line int, format string, args ...any) error {
	return fmt.Errorf("%s:%d: %s", filepath.Clean(path), max(line, 1), fmt.Sprintf(format, args...))
}
