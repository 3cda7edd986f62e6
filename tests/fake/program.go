package fake

import (
	"bytes"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Program makes an OCI image of one static program, which is /NAME and the
// entry point.
func Program(name, path, architecture string, args ...string) (v1.Image, error) {
	program, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	run := v1.Config{Entrypoint: []string{"/" + name}, Cmd: args}
	return image(architecture, run, file{name, int64(len(program)), bytes.NewReader(program)})
}
