package image

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path"
	"sort"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// Scratch is the name of the empty base.
const Scratch = "scratch"

// defaultPath is what BuildKit sets in an image from scratch.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Dockerfile is a file of the subset, its variables filled in.
type Dockerfile struct {
	path   string
	base   string
	from   int // line of FROM
	steps  []step
	config v1.Config
}

// step is one instruction: what it adds to the history, and to the file tree.
type step struct {
	line  int
	text  string
	copy  *copyStep
	mkdir string // WORKDIR: a folder that must be there
}

type copyStep struct {
	from    string // "": the folder of the Dockerfile
	sources []string
	dest    string // absolute; ends with / if it must be a folder
	chmod   string
}

// Read parses the Dockerfile at path. args are build arguments: an ARG instruction of
// that name makes them known in the lines below it.
func Read(path string, args map[string]string) (*Dockerfile, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading Dockerfile: %w", err)
	}
	if _, cmd, loc, ok := parser.DetectSyntax(data); ok {
		line := 1
		if len(loc) > 0 {
			line = loc[0].Start.Line
		}
		return nil, fmt.Errorf("%s:%d: syntax directive %q: no frontend is fetched; remove the line", path, line, cmd)
	}
	ast, err := parser.Parse(bytes.NewReader(data))
	if err != nil {
		return nil, located(path, 1, err)
	}
	if len(ast.Warnings) > 0 {
		w := ast.Warnings[0]
		line := 1
		if w.Location != nil {
			line = w.Location.Start.Line
		}
		return nil, fmt.Errorf("%s:%d: %s", path, line, w.Short)
	}
	r := &reader{
		file:  &Dockerfile{path: path},
		lex:   shell.NewLex(ast.EscapeToken),
		given: args,
		args:  map[string]string{},
	}
	for _, n := range ast.AST.Children {
		if err := r.instruction(n); err != nil {
			return nil, located(path, n.StartLine, err)
		}
	}
	if !r.from {
		return nil, fmt.Errorf("%s: no FROM instruction", path)
	}
	return r.file, nil
}

// Use is a named context that a Dockerfile uses.
type Use struct {
	Name string
	Line int // where it is first named
}

// Uses lists the named contexts that the file uses, sorted by name.
func (d *Dockerfile) Uses() []Use {
	seen := map[string]int{}
	if d.base != Scratch {
		seen[d.base] = d.from
	}
	for _, s := range d.steps {
		if s.copy == nil || s.copy.from == "" {
			continue
		}
		if _, ok := seen[s.copy.from]; !ok {
			seen[s.copy.from] = s.line
		}
	}
	uses := make([]Use, 0, len(seen))
	for n, line := range seen {
		uses = append(uses, Use{Name: n, Line: line})
	}
	sort.Slice(uses, func(i, j int) bool { return uses[i].Name < uses[j].Name })
	return uses
}

// Config is the image configuration that the file asks for.
func (d *Dockerfile) Config() v1.Config { return *d.config.DeepCopy() }

func (d *Dockerfile) errorf(line int, format string, args ...any) error {
	return fmt.Errorf("%s:%d: %w", d.path, line, fmt.Errorf(format, args...))
}

func located(path string, line int, err error) error {
	var le *parser.LocationError
	if errors.As(err, &le) && len(le.Locations) > 0 && len(le.Locations[0]) > 0 {
		line = le.Locations[0][0].Start.Line
	}
	return fmt.Errorf("%s:%d: %w", path, line, err)
}

// reader fills in a Dockerfile's variables, instruction by instruction.
type reader struct {
	file  *Dockerfile
	lex   *shell.Lex
	given map[string]string // build arguments
	args  map[string]string // ARGs in force
	from  bool
}

var understood = map[string]bool{
	"from": true, "arg": true, "copy": true, "label": true, "env": true, "user": true, "workdir": true,
	"entrypoint": true, "cmd": true, "expose": true, "volume": true, "stopsignal": true,
}

func (r *reader) instruction(n *parser.Node) error {
	if !understood[strings.ToLower(n.Value)] {
		return fmt.Errorf("instruction %s is not understood by the daemonless builder", strings.ToUpper(n.Value))
	}
	cmd, err := instructions.ParseInstruction(n)
	if err != nil {
		return err
	}
	if stage, ok := cmd.(*instructions.Stage); ok {
		return r.stage(stage, n.StartLine)
	}
	if arg, ok := cmd.(*instructions.ArgCommand); ok {
		return r.arg(arg)
	}
	if !r.from {
		return fmt.Errorf("instruction %s before FROM", strings.ToUpper(n.Value))
	}
	if c, ok := cmd.(instructions.SupportsSingleWordExpansion); ok {
		if err := c.Expand(r.expand); err != nil {
			return err
		}
	}
	s := step{line: n.StartLine, text: n.Original}
	if err := r.apply(cmd, &s); err != nil {
		return err
	}
	r.file.steps = append(r.file.steps, s)
	return nil
}

func (r *reader) stage(s *instructions.Stage, line int) error {
	if r.from {
		return errors.New("a second FROM: multi-stage builds are not understood by the daemonless builder")
	}
	if s.Platform != "" {
		return errors.New("FROM --platform is not understood by the daemonless builder")
	}
	base, err := r.expand(s.BaseName)
	if err != nil {
		return err
	}
	// ARGs before FROM are for FROM only.
	r.from, r.args = true, map[string]string{}
	r.file.base, r.file.from = base, line
	r.file.config = v1.Config{Env: []string{defaultPath}, WorkingDir: "/"}
	return nil
}

func (r *reader) arg(c *instructions.ArgCommand) error {
	if err := c.Expand(r.expand); err != nil {
		return err
	}
	for _, a := range c.Args {
		if v, ok := r.given[a.Key]; ok {
			r.args[a.Key] = v
		} else if a.Value != nil {
			r.args[a.Key] = *a.Value
		}
	}
	return nil
}

// expand fills in variables. BuildKit makes an unknown one empty; that is refused here,
// because what comes of it (COPY --from=a / /) is never meant.
func (r *reader) expand(word string) (string, error) {
	out, unknown, err := r.lex.ProcessWord(word, env{r.args, r.file.config.Env})
	if err != nil {
		return "", err
	}
	names := make([]string, 0, len(unknown))
	for n := range unknown {
		names = append(names, n)
	}
	if len(names) > 0 {
		sort.Strings(names)
		return "", fmt.Errorf("variable %s is set by no ARG or ENV above", strings.Join(names, ", "))
	}
	return out, nil
}

func (r *reader) apply(cmd any, s *step) error {
	cfg := &r.file.config
	switch c := cmd.(type) {
	case *instructions.CopyCommand:
		return r.copy(c, s)
	case *instructions.LabelCommand:
		if cfg.Labels == nil {
			cfg.Labels = map[string]string{}
		}
		for _, l := range c.Labels {
			cfg.Labels[l.Key] = l.Value
		}
	case *instructions.EnvCommand:
		for _, e := range c.Env {
			cfg.Env = setEnv(cfg.Env, e.Key, e.Value)
		}
	case *instructions.UserCommand:
		cfg.User = c.User
	case *instructions.WorkdirCommand:
		return r.workdir(c, s)
	case *instructions.EntrypointCommand:
		if c.PrependShell {
			return errors.New(`ENTRYPOINT in the shell form needs a shell in the image; write it as JSON: ENTRYPOINT ["program"]`)
		}
		cfg.Entrypoint = c.CmdLine
	case *instructions.CmdCommand:
		if c.PrependShell {
			return errors.New(`CMD in the shell form needs a shell in the image; write it as JSON: CMD ["program"]`)
		}
		cfg.Cmd = c.CmdLine
	case *instructions.ExposeCommand:
		return r.expose(c)
	case *instructions.VolumeCommand:
		if cfg.Volumes == nil {
			cfg.Volumes = map[string]struct{}{}
		}
		for _, v := range c.Volumes {
			if v == "" {
				return errors.New("VOLUME with an empty path")
			}
			cfg.Volumes[v] = struct{}{}
		}
	case *instructions.StopSignalCommand:
		cfg.StopSignal = c.Signal
	default:
		return fmt.Errorf("instruction %T is not understood by the daemonless builder", cmd)
	}
	return nil
}

func (r *reader) workdir(c *instructions.WorkdirCommand, s *step) error {
	dir := path.Join("/", c.Path)
	if !path.IsAbs(c.Path) {
		dir = path.Join(r.file.config.WorkingDir, c.Path)
	}
	if dir != "/" && r.file.config.User != "" {
		return errors.New("WORKDIR below USER would make a folder of that user, and layers here are root's: put it above")
	}
	r.file.config.WorkingDir = dir
	s.mkdir = dir
	return nil
}

func (r *reader) copy(c *instructions.CopyCommand, s *step) error {
	switch {
	case len(c.SourceContents) > 0:
		return errors.New("COPY of a here-document is not understood by the daemonless builder")
	case c.Parents:
		return errors.New("COPY --parents is not understood by the daemonless builder")
	case len(c.ExcludePatterns) > 0:
		return errors.New("COPY --exclude is not understood by the daemonless builder")
	}
	switch c.Chown {
	case "", "0", "0:0", "root", "root:root":
	default:
		return fmt.Errorf("COPY --chown=%s: layers here are root's", c.Chown)
	}
	if c.Chmod != "" {
		if _, err := strconv.ParseUint(c.Chmod, 8, 12); err != nil {
			return fmt.Errorf("COPY --chmod=%s is not an octal mode such as 0755", c.Chmod)
		}
	}
	dest := c.DestPath
	if !path.IsAbs(dest) {
		dest = path.Join(r.file.config.WorkingDir, dest) + trailing(dest)
	}
	s.copy = &copyStep{from: c.From, sources: c.SourcePaths, dest: path.Clean(dest) + trailing(dest), chmod: c.Chmod}
	return nil
}

// trailing gives the slash that path.Clean takes away where it says "a folder".
func trailing(p string) string {
	if path.Clean(p) != "/" && (strings.HasSuffix(p, "/") || strings.HasSuffix(p, "/.") || p == ".") {
		return "/"
	}
	return ""
}

func (r *reader) expose(c *instructions.ExposeCommand) error {
	if r.file.config.ExposedPorts == nil {
		r.file.config.ExposedPorts = map[string]struct{}{}
	}
	for _, word := range c.Ports {
		p, err := r.expand(word)
		if err != nil {
			return err
		}
		port, proto, ok := strings.Cut(strings.ToLower(p), "/")
		if !ok {
			proto = "tcp"
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || (proto != "tcp" && proto != "udp" && proto != "sctp") {
			return fmt.Errorf("EXPOSE %s is not a port such as 80 or 53/udp (ranges are not understood by the daemonless builder)", p)
		}
		r.file.config.ExposedPorts[port+"/"+proto] = struct{}{}
	}
	return nil
}

func setEnv(env []string, key, value string) []string {
	out := make([]string, 0, len(env)+1)
	for _, e := range env {
		if !strings.HasPrefix(e, key+"=") {
			out = append(out, e)
			continue
		}
		out = append(out, key+"="+value)
		key = ""
	}
	if key != "" {
		out = append(out, key+"="+value)
	}
	return out
}

// env is the variables in force: ENV wins over ARG.
type env struct {
	args map[string]string
	env  []string
}

func (e env) Get(key string) (string, bool) {
	for _, kv := range e.env {
		if k, v, _ := strings.Cut(kv, "="); k == key {
			return v, true
		}
	}
	v, ok := e.args[key]
	return v, ok
}

func (e env) Keys() []string {
	var keys []string
	for k := range e.args {
		keys = append(keys, k)
	}
	for _, kv := range e.env {
		k, _, _ := strings.Cut(kv, "=")
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
