package engine

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/rancher/rke2/runtime/pod"
)

// inputsDigest stands for the files that a component's arguments name: a
// certificate that was rotated, or a policy that was edited, restarts its Pod
// at the node's next start, and nothing else does. Folders and sockets do not
// count, nor does what is not there.
func inputsDigest(c pod.Component) (string, error) {
	var paths []string
	for _, arg := range c.Args {
		_, value, ok := strings.Cut(arg, "=")
		if !ok {
			continue
		}
		for _, path := range strings.Split(value, ",") {
			if filepath.IsAbs(path) {
				paths = append(paths, filepath.Clean(path))
			}
		}
	}
	slices.Sort(paths)
	hash := sha256.New()
	for _, path := range slices.Compact(paths) {
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) || (err == nil && !info.Mode().IsRegular()) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("reading what %s is configured with: %w", c.Name, err)
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return "", fmt.Errorf("reading what %s is configured with: %w", c.Name, err)
		}
		sum := sha256.Sum256(content)
		fmt.Fprintf(hash, "%s %x\n", path, sum)
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}
