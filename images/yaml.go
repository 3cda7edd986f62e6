package images

import (
	"fmt"
	"os"
	"path/filepath"

	"go.yaml.in/yaml/v3"

	"github.com/rancher/rke2/images/yamlfile"
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

// decodeFile reads exactly one YAML document from path into out. Unknown and repeated
// keys, wrong types and further documents are errors that name file and line.
func decodeFile(path string, out any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("reading declaration: %w", err)
	}
	return yamlfile.Decode(path, data, out)
}

// at makes an error for one line of a declaration.
func at(path string, line int, format string, args ...any) error {
	return fmt.Errorf("%s:%d: %s", filepath.Clean(path), max(line, 1), fmt.Sprintf(format, args...))
}
