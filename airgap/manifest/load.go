package manifest

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/distribution/reference"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"go.yaml.in/yaml/v3"

	"github.com/rancher/rke2/images/yamlfile"
)

// Load reads a manifest. Unknown and repeated keys, wrong types, further documents and
// values that can't be right are errors that say FILE:LINE. Its paths are returned as
// they are to be opened: below the manifest's folder where they were relative.
func Load(file string) (*Bundle, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading the manifest: %w", err)
	}
	b, err := parse(file, data)
	if err != nil {
		return nil, err
	}
	b.resolve(filepath.Dir(file))
	return b, nil
}

func parse(file string, data []byte) (*Bundle, error) {
	b := &Bundle{file: file}
	if err := yamlfile.Decode(file, data, b); err != nil {
		return nil, err
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	b.lines = lines{}
	b.lines.note("", &doc)
	if b.APIVersion != Version {
		return nil, b.fault("apiVersion", "apiVersion %q is not known to this version, which reads %s", b.APIVersion, Version)
	}
	if b.Kind != Kind {
		return nil, b.fault("kind", "kind %q is not known: a manifest's is %s", b.Kind, Kind)
	}
	return b, b.Check()
}

// lines has the line of each key and element, by its path: charts[1].values.
type lines map[string]int

func (l lines) note(at string, n *yaml.Node) {
	if _, ok := l[at]; !ok {
		l[at] = n.Line
	}
	switch n.Kind {
	case yaml.DocumentNode:
		for _, c := range n.Content {
			l.note(at, c)
		}
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := strings.TrimPrefix(at+"."+n.Content[i].Value, ".")
			l[key] = n.Content[i].Line
			l.note(key, n.Content[i+1])
		}
	case yaml.SequenceNode:
		for i, c := range n.Content {
			l.note(at+"["+strconv.Itoa(i)+"]", c)
		}
	}
}

// fault is an error about what is at a path. Where the bundle was not read from a file,
// the path itself says where.
func (b *Bundle) fault(at, format string, args ...any) error {
	what := fmt.Sprintf(format, args...)
	if b.file == "" {
		return errors.New(what)
	}
	line := 1
	for p := at; p != ""; p = p[:max(strings.LastIndexAny(p, ".["), 0)] {
		if n, ok := b.lines[p]; ok {
			line = n
			break
		}
	}
	return fmt.Errorf("%s:%d: %s", b.file, line, what)
}

var bundleName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

// Check holds the bundle to what can be known without opening anything.
func (b *Bundle) Check() error {
	if b.Name != "" && !bundleName.MatchString(b.Name) {
		return b.fault("name", "the name %q: letters, digits, dots, dashes and underscores make a file's name", b.Name)
	}
	for i, p := range b.Platforms {
		if _, err := ParsePlatform(p); err != nil {
			return b.fault(at("platforms", i), "%v", err)
		}
	}
	if err := b.checkSources(); err != nil {
		return err
	}
	if _, err := ParseFormat(b.Format); err != nil {
		return b.fault("format", "%v", err)
	}
	if b.Split != "" {
		if _, err := ParseSize(b.Split); err != nil {
			return b.fault("split", "%v", err)
		}
		if b.Format != "" && b.Format != "tar" {
			return b.fault("split", "parts are plain tars: split goes with format tar")
		}
	}
	if b.Empty() {
		return b.fault("", "nothing is to be bundled: name layouts, images, imageLists, archives, charts or files")
	}
	return nil
}

// Empty tells whether the bundle would hold nothing.
func (b *Bundle) Empty() bool {
	return len(b.Layouts)+len(b.Images)+len(b.ImageLists)+len(b.Archives)+len(b.Charts)+len(b.Files) == 0
}

func (b *Bundle) checkSources() error {
	for i, l := range b.Layouts {
		if l.Path == "" {
			return b.fault(at("layouts", i), "a layout needs its path")
		}
		for j, s := range l.Sets {
			if s == "" || strings.ContainsAny(s, "/\\ ,") {
				return b.fault(at("layouts", i)+at(".sets", j), "set %q: a set's name is one word", s)
			}
		}
	}
	for i, ref := range b.Images {
		if _, err := reference.ParseNormalizedNamed(ref); err != nil {
			return b.fault(at("images", i), "image %q: %v", ref, err)
		}
	}
	for i, l := range b.ImageLists {
		if l == "" {
			return b.fault(at("imageLists", i), "an image list needs its path")
		}
	}
	for i, a := range b.Archives {
		if a.Path == "" {
			return b.fault(at("archives", i), "an archive needs its path")
		}
	}
	for i, c := range b.Charts {
		if err := c.check(); err != nil {
			return b.fault(at("charts", i), "%v", err)
		}
	}
	for i, f := range b.Files {
		if f.Path == "" {
			return b.fault(at("files", i), "a file needs its path")
		}
		if f.To != "" && (path.IsAbs(f.To) || path.Clean(f.To) != f.To || f.To == ".." || f.To == "." || strings.HasPrefix(f.To, "../") || strings.ContainsAny(f.To, "\\\x00")) {
			return b.fault(at("files", i)+".to", "to %q: a clean, relative path with slashes is needed", f.To)
		}
	}
	return nil
}

func (c Chart) check() error {
	switch {
	case c.Chart == "":
		return errors.New("a chart needs its folder, file, reference or name")
	case c.Repo != "" && strings.HasPrefix(c.Chart, "oci://"):
		return errors.New("an oci:// chart has no repo: its reference says where it is")
	case c.Registry != "" && !strings.HasPrefix(c.Registry, "oci://"):
		return fmt.Errorf("registry %q: oci://REGISTRY/PATH is needed", c.Registry)
	}
	return nil
}

func at(key string, i int) string { return key + "[" + strconv.Itoa(i) + "]" }

// resolve makes paths relative to a folder.
func (b *Bundle) resolve(dir string) {
	join := func(p *string) {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
	for i := range b.Layouts {
		join(&b.Layouts[i].Path)
	}
	for i := range b.ImageLists {
		join(&b.ImageLists[i])
	}
	for i := range b.Archives {
		join(&b.Archives[i].Path)
	}
	for i := range b.Charts {
		c := &b.Charts[i]
		// A name in a repository and an oci:// reference are no paths.
		if c.Repo == "" && !strings.Contains(c.Chart, "://") {
			join(&c.Chart)
		}
		for j := range c.ValuesFiles {
			join(&c.ValuesFiles[j])
		}
	}
	for i := range b.Files {
		if b.Files[i].To == "" {
			b.Files[i].To = path.Base(filepath.ToSlash(filepath.Clean(b.Files[i].Path)))
		}
		join(&b.Files[i].Path)
	}
	for i := range b.Keys {
		join(&b.Keys[i])
	}
}

// ParsePlatform reads OS/ARCH[/VARIANT].
func ParsePlatform(s string) (v1.Platform, error) {
	p, err := v1.ParsePlatform(s)
	if err != nil || p.OS == "" || p.Architecture == "" || p.OSVersion != "" || len(p.OSFeatures) > 0 {
		return v1.Platform{}, fmt.Errorf("platform %q: an operating system and an architecture are needed, such as linux/amd64", s)
	}
	return *p, nil
}

// ParseFormat gives the ending of a format's files; empty means tar.
func ParseFormat(s string) (string, error) {
	switch s {
	case "", "tar":
		return ".tar", nil
	case "tar.zst", "tar.gz":
		return "." + s, nil
	}
	return "", fmt.Errorf("format %q is not known: use tar, tar.zst or tar.gz", s)
}

var size = regexp.MustCompile(`^([0-9]+(?:\.[0-9]+)?) ?([kKMGT]?)(i?)B?$`)

// ParseSize reads a number of bytes: 4GB and 4G are 4·10⁹, 4GiB is 4·2³⁰.
func ParseSize(s string) (int64, error) {
	m := size.FindStringSubmatch(s)
	if m == nil || m[3] != "" && m[2] == "" {
		return 0, fmt.Errorf("size %q: write 700MiB, 4GB or a number of bytes", s)
	}
	n, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		return 0, fmt.Errorf("size %q: %w", s, err)
	}
	unit := 1000.0
	if m[3] != "" {
		unit = 1024
	}
	if m[2] != "" {
		n *= math.Pow(unit, float64(1+strings.Index("KMGT", strings.ToUpper(m[2]))))
	}
	if n < 1 || n > 1<<60 {
		return 0, fmt.Errorf("size %q is out of range", s)
	}
	return int64(n), nil
}

// ParseFile reads a file as a command line has it: PATH, or NAME=PATH where it is to be
// called otherwise in the bundle.
func ParseFile(s string) File {
	if to, from, ok := strings.Cut(s, "="); ok && to != "" && !strings.ContainsAny(to, " ") {
		if _, err := os.Lstat(s); err != nil {
			return File{Path: from, To: to}
		}
	}
	return File{Path: s}
}
