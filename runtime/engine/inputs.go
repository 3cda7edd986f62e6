package engine

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/rancher/rke2/runtime/pod"
)

// maxConfig bounds the files that are searched for names of more files.
const maxConfig = 64 << 10

// pathIn finds what may be a file's path in a kubeconfig or another configuration.
var pathIn = regexp.MustCompile(`/[A-Za-z0-9._/-]+`)

// inputsDigest stands for the files that a component's arguments name, and for those
// that these name (a kubeconfig its certificates, etcd's configuration its own): a
// certificate that was rotated, or a policy that was edited, restarts its Pod
// at the node's next start, and nothing else does. Folders and sockets do not
// count, nor does what is not there.
func inputsDigest(c pod.Component) (string, error) {
	var named []string
	for _, arg := range c.Args {
		_, value, ok := strings.Cut(arg, "=")
		if !ok {
			continue
		}
		for _, path := range strings.Split(value, ",") {
			if filepath.IsAbs(path) {
				named = append(named, filepath.Clean(path))
			}
		}
	}
	sums := map[string][sha256.Size]byte{}
	var further []string
	for _, path := range named {
		content, err := input(c, path)
		if err != nil {
			return "", err
		}
		if content == nil {
			continue
		}
		sums[path] = sha256.Sum256(content)
		if len(content) <= maxConfig {
			for _, p := range pathIn.FindAllString(string(content), -1) {
				further = append(further, filepath.Clean(p))
			}
		}
	}
	for _, path := range further {
		if _, known := sums[path]; known {
			continue
		}
		content, err := input(c, path)
		if err != nil {
			return "", err
		}
		if content != nil {
			sums[path] = sha256.Sum256(content)
		}
	}
	paths := make([]string, 0, len(sums))
	for path := range sums {
		paths = append(paths, path)
	}
	slices.Sort(paths)
	hash := sha256.New()
	for _, path := range paths {
		fmt.Fprintf(hash, "%s %x\n", path, sums[path])
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

// input reads a file, or gives nil for what is none.
func input(c pod.Component, path string) ([]byte, error) {
	info, err := os.Stat(path)
	// What looks like a path in a certificate's base64 may be no path at all.
	if err != nil && !errors.Is(err, fs.ErrPermission) || err == nil && !info.Mode().IsRegular() {
		return nil, nil
	}
	var content []byte
	if err == nil {
		content, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, fmt.Errorf("reading what %s is configured with: %w", c.Name, err)
	}
	if content == nil {
		content = []byte{}
	}
	return content, nil
}
