package buildkit

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"

	"github.com/rancher/rke2/build/image"
)

// scratch is the name of the empty base.
const scratch = "scratch"

// networkHost is what a daemon must allow for RUN --network=host.
const networkHost = "network.host"

// dockerfile is what has to be known of a file before BuildKit gets it.
type dockerfile struct {
	path     string
	data     []byte
	contexts []used // that it names, sorted by name
	local    int    // the first line that reads files beside it, or 0
	network  bool   // it says RUN --network=host
}

type used struct {
	name string
	line int
	what string // "FROM", "COPY --from" …
}

// Contexts lists the named contexts that a Dockerfile uses, sorted. args are build
// arguments: they may choose what FROM names.
func Contexts(path string, args map[string]string) ([]image.Use, error) {
	d, err := read(path, args)
	if err != nil {
		return nil, err
	}
	var out []image.Use
	for _, u := range d.contexts {
		out = append(out, image.Use{Name: u.name, Line: u.line})
	}
	return out, nil
}

// read finds out what a Dockerfile names. What could only be had from the network is
// refused here, where the line is known.
func read(path string, args map[string]string) (*dockerfile, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading Dockerfile: %w", err)
	}
	d := &dockerfile{path: path, data: data}
	if _, cmd, loc, ok := parser.DetectSyntax(data); ok {
		return nil, d.errorf(line(loc), "syntax directive %q: no frontend is fetched; remove the line", cmd)
	}
	ast, err := parser.Parse(bytes.NewReader(data))
	if err != nil {
		return nil, d.located(err, 1)
	}
	stages, meta, err := instructions.Parse(ast.AST, nil)
	if err != nil {
		return nil, d.located(err, 1)
	}
	if len(stages) == 0 {
		return nil, fmt.Errorf("%s: no FROM instruction", path)
	}
	globals, err := d.globals(meta, args, ast.EscapeToken)
	if err != nil {
		return nil, err
	}
	above := map[string]bool{} // stages, by name and number
	for i, s := range stages {
		base, unknown, err := shell.NewLex(ast.EscapeToken).ProcessWord(s.BaseName, globals)
		if err != nil {
			return nil, d.errorf(line(s.Location), "FROM %s: %w", s.BaseName, err)
		}
		for name := range unknown {
			return nil, d.errorf(line(s.Location), "FROM %s: variable %s is set by no ARG above", s.BaseName, name)
		}
		d.use(above, base, line(s.Location), "FROM "+base)
		for _, cmd := range s.Commands {
			if err := d.command(cmd, above); err != nil {
				return nil, err
			}
		}
		above[strconv.Itoa(i)] = true
		if s.Name != "" {
			above[strings.ToLower(s.Name)] = true
		}
	}
	sort.Slice(d.contexts, func(i, j int) bool { return d.contexts[i].name < d.contexts[j].name })
	return d, nil
}

// globals are the variables that FROM lines know.
func (d *dockerfile) globals(meta []instructions.ArgCommand, args map[string]string, escape rune) (shell.EnvGetter, error) {
	var env []string
	for _, name := range []string{"TARGETPLATFORM", "TARGETOS", "TARGETARCH"} {
		if v, ok := args[name]; ok {
			env = append(env, name+"="+v)
		}
	}
	for _, m := range meta {
		for _, a := range m.Args {
			if v, ok := args[a.Key]; ok {
				env = append(env, a.Key+"="+v)
			} else if a.Value != nil {
				v, _, err := shell.NewLex(escape).ProcessWord(*a.Value, shell.EnvsFromSlice(env))
				if err != nil {
					return nil, d.errorf(line(m.Location()), "ARG %s: %w", a.Key, err)
				}
				env = append(env, a.Key+"="+v)
			}
		}
	}
	return shell.EnvsFromSlice(env), nil
}

func (d *dockerfile) command(cmd instructions.Command, above map[string]bool) error {
	at := line(cmd.Location())
	switch c := cmd.(type) {
	case *instructions.CopyCommand:
		if c.From != "" {
			d.use(above, c.From, at, "COPY --from="+c.From)
		} else if len(c.SourcePaths) > 0 {
			d.beside(at)
		}
	case *instructions.AddCommand:
		for _, src := range c.SourcePaths {
			if strings.Contains(src, "://") || strings.HasPrefix(src, "git@") {
				return d.errorf(at, "ADD %s: nothing is fetched here: declare it as a component and COPY it from that context", src)
			}
			d.beside(at)
		}
	case *instructions.RunCommand:
		// A mount's type may depend on a variable: then it is taken for a bind mount.
		_ = c.Expand(func(word string) (string, error) { return word, nil })
		for _, m := range instructions.GetMounts(c) {
			if m.From != "" {
				d.use(above, m.From, at, "RUN --mount=from="+m.From)
			} else if m.Type == instructions.MountTypeBind {
				d.beside(at)
			}
		}
		d.network = d.network || instructions.GetNetwork(c) == instructions.NetworkHost
	}
	return nil
}

func (d *dockerfile) use(above map[string]bool, name string, line int, what string) {
	if strings.EqualFold(name, scratch) || above[strings.ToLower(name)] {
		return
	}
	for _, u := range d.contexts {
		if u.name == name {
			return
		}
	}
	d.contexts = append(d.contexts, used{name, line, what})
}

func (d *dockerfile) beside(line int) {
	if d.local == 0 {
		d.local = line
	}
}

// base is the file's name, by which BuildKit knows it.
func (d *dockerfile) base() string { return filepath.Base(d.path) }

func (d *dockerfile) errorf(line int, format string, args ...any) error {
	return fmt.Errorf("%s:%d: %w", d.path, line, fmt.Errorf(format, args...))
}

// located puts the place of a parser's error before it.
func (d *dockerfile) located(err error, otherwise int) error {
	var le *parser.LocationError
	if errors.As(err, &le) && len(le.Locations) > 0 && len(le.Locations[0]) > 0 {
		otherwise = line(le.Locations[0])
	}
	return d.errorf(otherwise, "%w", err)
}

func line(at []parser.Range) int {
	if len(at) == 0 {
		return 1
	}
	return max(at[0].Start.Line, 1)
}
