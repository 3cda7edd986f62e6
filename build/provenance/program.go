package provenance

import (
	"bufio"
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"github.com/rancher/rke2/build/inventory"
	"github.com/rancher/rke2/build/statement"
)

// ProgramBuildType is the build type of a program that is shipped as a file, without an
// image around it; the document is in this folder.
const ProgramBuildType = "https://github.com/rancher/rke2/blob/master/build/provenance/program-v1.md"

// ExternalProgram are the parameters of a program's build that a user sets.
type ExternalProgram struct {
	Program  string `json:"program"`  // file name without platform: rke2
	Platform string `json:"platform"` // os/arch
	Version  string `json:"version"`  // of the product
}

// Program gives the provenance of one Go program that is shipped as a file, as an in-toto
// statement about it: JSON. Files has just the program, Name is its file name, Digest its
// own. What built it is read from the program: Go, its settings and modules from the build
// info, C compilers from the section .comment.
func Program(in Input) ([]byte, error) {
	fail := func(err error) ([]byte, error) {
		return nil, fmt.Errorf("writing the provenance of %s: %w", in.Name, err)
	}
	if len(in.Files) != 1 {
		return fail(fmt.Errorf("%d files are given, not the program alone", len(in.Files)))
	}
	files, err := inventory.Read(in.Cache, in.Files)
	if err != nil {
		return fail(err)
	}
	if len(files) != 1 || files[0].Go == nil {
		return fail(fmt.Errorf("%s is no Go program that says what it was built from", in.Files[0].Source))
	}
	in.Go, in.FIPS140 = files[0].Go.GoVersion, files[0].Go.Settings["GOFIPS140"]
	if in.Compilers, err = compilers(in.Files[0].Source); err != nil {
		return fail(err)
	}
	deps, err := dependencies(in, files)
	if err != nil {
		return fail(err)
	}
	p := definition(in, deps, files)
	p.BuildDefinition.BuildType = ProgramBuildType
	p.BuildDefinition.ExternalParameters = ExternalProgram{Program: files[0].Path, Platform: in.Platform.String(), Version: in.Product}
	data, err := encode(p)
	if err != nil {
		return fail(err)
	}
	return statement.Encode(statement.Provenance, in.Name, in.Digest, data)
}

// compilers are what left their names in a program: compilers of C say so in .comment.
func compilers(file string) ([]string, error) {
	f, err := elf.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	section := f.Section(".comment")
	if section == nil {
		return nil, nil
	}
	data, err := section.Data()
	if err != nil {
		return nil, fmt.Errorf("reading the section .comment of %s: %w", file, err)
	}
	var out []string
	for _, name := range bytes.Split(data, []byte{0}) {
		if len(name) > 0 {
			out = append(out, string(name))
		}
	}
	sort.Strings(out)
	return slices.Compact(out), nil
}

// RecordName is the name of the file beside a program that says which files of the project
// it was built from: lines of sha256sum, with paths relative to the project's root, the
// last of them about the program itself, so that a record is not taken for another build's.
func RecordName(program string) string { return program + ".sources" }

// Recorded reads the record beside a program. digest is the program's own, in hex: a
// record of another build is an error, as is none.
func Recorded(program, digest string) ([]Source, error) {
	name := RecordName(program)
	data, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s, which says what %s was built from, is not there: run make airgap", name, filepath.Base(program))
	}
	if err != nil {
		return nil, err
	}
	var out []Source
	lines := bufio.NewScanner(bytes.NewReader(data))
	for n := 1; lines.Scan(); n++ {
		sum, path, ok := strings.Cut(lines.Text(), "  ")
		if !ok || len(sum) != 64 || path == "" {
			return nil, fmt.Errorf("%s:%d: %q is no line of sha256sum: run make airgap", name, n, lines.Text())
		}
		out = append(out, Source{Path: path, SHA256: sum})
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	last := len(out) - 1
	if last < 1 || out[last].Path != filepath.Base(program) || out[last].SHA256 != digest {
		return nil, fmt.Errorf("%s is about another build than %s (sha256:%s): run make airgap", name, program, digest)
	}
	out = out[:last]
	sort.Slice(out, func(i, j int) bool { return out[i].Path < out[j].Path })
	return slices.Compact(out), nil
}
