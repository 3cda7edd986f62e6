package modulefiles

import (
	"archive/zip"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"github.com/bmatcuk/doublestar/v4"

	"github.com/rancher/rke2/images"
)

// largest is the most that is read of one file. The Go module reference lets a whole
// module have 500 MiB; text that goes into an image is far from it.
const largest = 64 << 20

// declaration is what image.yaml says, and where, for errors.
type declaration struct {
	images.ModuleFiles
	yaml string
}

func (d declaration) errorf(line int, format string, args ...any) error {
	return fmt.Errorf("%s:%d: files: %s: %w", d.yaml, max(line, 1), d.Context, fmt.Errorf(format, args...))
}

// check refuses what could not mean files of the module.
func (d declaration) check() error {
	if d.From != "" && (!fs.ValidPath(d.From) || d.From == ".") {
		return d.errorf(d.Line, "from: %q is not a folder of the module, such as config/crd", d.From)
	}
	for _, p := range d.Paths {
		if !doublestar.ValidatePattern(p) || !fs.ValidPath(p) {
			return d.errorf(d.Line, "paths: %q is not a glob of relative paths, such as etc/**", p)
		}
	}
	for _, e := range d.Edits {
		if !fs.ValidPath(e.File) {
			return d.errorf(e.Line, "edit: %q is not the path of a file in the context", e.File)
		}
		if e.Replace == "" || e.Count < 1 {
			return d.errorf(e.Line, "edit of %s: replace must be given, and count at least 1", e.File)
		}
	}
	return nil
}

// take reads the declared files from the module zip, by their path in the context.
func (d declaration) take(zipPath string, mod locked) (map[string][]byte, error) {
	z, err := zip.OpenReader(zipPath)
	if err != nil {
		return nil, d.errorf(d.Line, "reading the zip of %s: %w", mod, err)
	}
	defer z.Close()
	prefix := path.Join(mod.String(), d.From) + "/"
	files := map[string][]byte{}
	below := 0
	matched := make([]bool, len(d.Paths))
	for _, f := range z.File {
		name, ok := strings.CutPrefix(f.Name, prefix)
		if !ok || strings.HasSuffix(name, "/") {
			continue // another folder's, or a folder, which zips needn't list
		}
		below++
		if !fs.ValidPath(name) {
			return nil, d.errorf(d.Line, "the zip of %s has an entry %q that leads out of it", mod, f.Name)
		}
		if !d.wants(name, matched) {
			continue
		}
		if !f.Mode().IsRegular() {
			return nil, d.errorf(d.Line, "%s in %s is no regular file but %s", f.Name, mod, f.Mode().Type())
		}
		if _, ok := files[name]; ok {
			return nil, d.errorf(d.Line, "the zip of %s has %s twice", mod, f.Name)
		}
		if files[name], err = readEntry(f); err != nil {
			return nil, d.errorf(d.Line, "reading %s: %w", f.Name, err)
		}
	}
	if below == 0 {
		return nil, d.errorf(d.Line, "%s has no folder %s with files in it", mod, strings.TrimSuffix(strings.TrimPrefix(prefix, mod.String()), "/"))
	}
	for i, ok := range matched {
		if !ok {
			return nil, d.errorf(d.Line, "paths: %q is none of the %d files in %s (globs are of files: a folder's are FOLDER/**)", d.Paths[i], below, strings.TrimSuffix(prefix, "/"))
		}
	}
	return files, nil
}

// wants tells whether a file is declared, and notes which globs match it.
func (d declaration) wants(name string, matched []bool) bool {
	wanted := len(d.Paths) == 0
	for i, p := range d.Paths {
		if doublestar.MatchUnvalidated(p, name) {
			matched[i], wanted = true, true
		}
	}
	return wanted
}

func readEntry(f *zip.File) ([]byte, error) {
	r, err := f.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, largest+1))
	if err != nil {
		return nil, err
	}
	if len(data) > largest {
		return nil, fmt.Errorf("it has more than %d MiB", largest>>20)
	}
	return data, nil
}

// edit makes the declared edits, in order, each on the result of those before it.
func (d declaration) edit(files map[string][]byte, mod locked) error {
	for _, e := range d.Edits {
		content, ok := files[e.File]
		if !ok {
			return d.errorf(e.Line, "edit: %s is not among the %d files that from and paths name", e.File, len(files))
		}
		text := string(content)
		if n := strings.Count(text, e.Replace); n != e.Count {
			return d.errorf(e.Line, "edit of %s in %s: %s is there %d times%s, expected %d: compare the declared text with the file",
				e.File, mod, excerpt(e.Replace), n, found(text, e.Replace, n), e.Count)
		}
		files[e.File] = []byte(strings.ReplaceAll(text, e.Replace, e.With))
	}
	return nil
}

// found says where the text is, or where it almost is: its longest beginning in whole
// lines that the file has, and what comes instead of the rest.
func found(text, want string, n int) string {
	if n > 0 {
		var lines []string
		at := 0
		for range n {
			i := strings.Index(text[at:], want)
			lines = append(lines, strconv.Itoa(1+strings.Count(text[:at+i], "\n")))
			at += i + len(want)
		}
		return " (line " + strings.Join(lines, ", ") + ")"
	}
	wanted := strings.SplitAfter(want, "\n")
	for k := len(wanted) - 1; k > 0; k-- {
		begin := strings.Join(wanted[:k], "")
		i := strings.Index(text, begin)
		if i < 0 || strings.TrimSpace(begin) == "" {
			continue
		}
		end := i + len(begin)
		got, _, _ := strings.Cut(text[end:], "\n")
		return fmt.Sprintf(" (its first %d lines are, but line %d is %q, not %q)", k, 1+strings.Count(text[:end], "\n"), got, strings.TrimSuffix(wanted[k], "\n"))
	}
	for i, line := range strings.Split(text, "\n") {
		if t := strings.TrimSpace(line); t != "" && t == strings.TrimSpace(wanted[0]) {
			return fmt.Sprintf(" (line %d is %q: other white space)", i+1, line)
		}
	}
	return ""
}

// excerpt quotes the beginning of a text.
func excerpt(s string) string {
	const most = 60
	if r := []rune(s); len(r) > most {
		return strconv.Quote(string(r[:most])) + "…"
	}
	return strconv.Quote(s)
}
