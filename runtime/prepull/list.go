// Package prepull reads lists of images that a node is to have before a pod asks for
// them, and pulls them through the container runtime, which knows the mirrors and
// credentials of registries.yaml.
package prepull

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/rancher/rke2/airgap"
)

// Line is one image of a list.
type Line struct {
	File string
	Line int            // from 1
	Ref  name.Reference // in full form
}

// IsList tells by a file's name whether it is a list: .txt, in any case.
func IsList(file string) bool { return strings.EqualFold(filepath.Ext(file), ".txt") }

const (
	maxFile  = 1 << 20
	maxFault = 3 // lines at fault that are named
)

// ReadFolder reads every list below a folder, in name order; hidden files and folders are
// passed over. Lists that cannot be used are in the error, each with what is wrong; the
// others are read all the same.
func ReadFolder(dir string) ([]Line, error) {
	var lines []Line
	var faults []error
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if strings.HasPrefix(entry.Name(), ".") && path != dir {
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if entry.IsDir() || !IsList(path) {
			return nil
		}
		some, err := readFile(path)
		if err != nil {
			faults = append(faults, err)
		}
		lines = append(lines, some...)
		return nil
	})
	return lines, errors.Join(append(faults, err)...)
}

func readFile(path string) ([]Line, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading list of images: %w", err)
	}
	defer f.Close()
	return Read(f, path)
}

// Read reads a list: a reference on each line, in any form that docker takes. Blank lines,
// lines that begin with # and what follows " #" are comments. A file with a line that is
// no reference is no list, and nothing of it is used: a note that lies beside bundles is
// not to be taken for names of images.
func Read(r io.Reader, file string) ([]Line, error) {
	var lines []Line
	var faults []string
	sc := bufio.NewScanner(io.LimitReader(r, maxFile+1))
	size, wrong := 0, 0
	for n := 1; sc.Scan(); n++ {
		if size += len(sc.Bytes()) + 1; size > maxFile {
			return nil, fmt.Errorf("list of images %s: it has more than %d bytes", file, maxFile)
		}
		text, _, _ := strings.Cut(sc.Text(), " #")
		text = strings.TrimSpace(text)
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		ref, err := airgap.ParseReference(text)
		if err != nil {
			if wrong++; wrong <= maxFault {
				faults = append(faults, fmt.Sprintf("line %d: %v", n, err))
			}
			continue
		}
		lines = append(lines, Line{file, n, ref})
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("list of images %s: %w", file, err)
	}
	if wrong > maxFault {
		faults = append(faults, fmt.Sprintf("and %d more", wrong-maxFault))
	}
	if len(faults) > 0 {
		return nil, fmt.Errorf("list of images %s: nothing of it is used: %s: write one image on each line, comments after #", file, strings.Join(faults, "; "))
	}
	return lines, nil
}
