// Package yamlfile reads YAML files that people write, strictly: whatever is wrong in one
// is an error that names file and line.
package yamlfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// ErrEmpty: the file holds no document.
var ErrEmpty = errors.New("it is empty")

// Decode reads exactly one document into out. Unknown and repeated keys, wrong types and
// further documents are errors of the form FILE:LINE: what; nothing at all is ErrEmpty.
func Decode(file string, data []byte, out any) error {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(out); errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: %w", file, ErrEmpty)
	} else if err != nil {
		return located(file, err)
	}
	var more yaml.Node
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s:%d: a second document: only one is read", file, max(more.Line, 1))
	}
	return nil
}

var (
	unknownKey = regexp.MustCompile(`^line (\d+): field (\S+) not found in type .+$`)
	atLine     = regexp.MustCompile(`^(?:yaml: )?(?:unmarshal errors:\s*)?line (\d+): (.*)$`)
)

// located rewrites the yaml package's errors as FILE:LINE: what.
func located(file string, err error) error {
	lines := []string{err.Error()}
	var te *yaml.TypeError
	if errors.As(err, &te) {
		lines = te.Errors
	}
	for i, l := range lines {
		if m := unknownKey.FindStringSubmatch(l); m != nil {
			lines[i] = fmt.Sprintf("%s:%s: unknown key %q", file, m[1], m[2])
		} else if m := atLine.FindStringSubmatch(l); m != nil {
			lines[i] = fmt.Sprintf("%s:%s: %s", file, m[1], m[2])
		} else {
			lines[i] = file + ": " + strings.TrimPrefix(l, "yaml: ")
		}
	}
	return errors.New(strings.Join(lines, "\n"))
}
