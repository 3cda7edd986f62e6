package charts

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// Values are what a chart is configured with. Later ones win, in the order of the
// fields, and within a field in the order of the list.
type Values struct {
	Files     []string       // paths of YAML files
	Texts     []Text         // YAML
	Inline    map[string]any // as decoded from JSON or YAML
	Set       []string       // key=value,…, as helm's --set
	SetString []string       // as helm's --set-string
}

// Text is YAML, and what errors about it name.
type Text struct {
	Name string `json:"name"`
	YAML []byte `json:"yaml"`
}

// Options say what is rendered.
type Options struct {
	Name        string // of the release; "" is the chart's name
	Namespace   string // of the release; "" is default
	KubeVersion string // v1.30.0 in form; "" is the version of Kubernetes' libraries in this program
	// APIVersions are had beside those of Kubernetes itself: GROUP/VERSION or
	// GROUP/VERSION/Kind, for charts that ask .Capabilities.
	APIVersions  []string
	Values       Values
	IncludeCRDs  bool // the objects of crds/ come first
	IncludeTests bool // what only `helm test` would make comes along

	// Time and Memory bound the process that runs the templates; 0 is DefaultTime and
	// DefaultMemory.
	Time   time.Duration
	Memory int64 // bytes
}

// Bounds on rendering one chart. The largest public charts need a tenth of them.
const (
	DefaultTime   = 30 * time.Second
	DefaultMemory = 512 << 20
	maxValues     = 16 << 20 // all values as text
	maxRendered   = 64 << 20 // all objects as JSON
)

// Render gives the objects that installing the chart would make, hooks among them, in
// the order of their templates' names. The cluster is as good as empty: `lookup` finds
// nothing, and no name is resolved. Random and dated values differ from call to call.
//
// Templates are run in a child process, so that one that does not end or eats memory
// ends with an error.
func (c *Chart) Render(ctx context.Context, opt Options) ([]Object, error) {
	objects, err := c.render(ctx, opt)
	if err != nil {
		return nil, fmt.Errorf("rendering chart %s %s: %w", c.Name, c.Version, err)
	}
	return objects, nil
}

func (c *Chart) render(ctx context.Context, opt Options) ([]Object, error) {
	if !c.Installable() {
		return nil, fmt.Errorf("%w: it is a %s chart, which cannot be installed", ErrNotChart, c.metadata.Type)
	}
	if opt.Time == 0 {
		opt.Time = DefaultTime
	}
	if opt.Memory == 0 {
		opt.Memory = DefaultMemory
	}
	request, err := c.request(opt)
	if err != nil {
		return nil, err
	}
	answer, err := call(ctx, request, opt)
	if err != nil {
		return nil, err
	}
	var out response
	if err := json.Unmarshal(answer, &out); err != nil {
		return nil, fmt.Errorf("reading what was rendered: %w", err)
	}
	if out.Error != "" {
		return nil, errors.New(out.Error)
	}
	return out.Objects, nil
}

func (c *Chart) request(opt Options) ([]byte, error) {
	texts, size := []Text{}, 0
	for _, path := range opt.Values.Files {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("reading values: %w", err)
		}
		data, err := readAll(f, maxValues)
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, fmt.Errorf("reading values %s: %w", path, err)
		}
		texts = append(texts, Text{path, data})
	}
	texts = append(texts, opt.Values.Texts...)
	for _, t := range texts {
		size += len(t.YAML)
	}
	if size > maxValues {
		return nil, fmt.Errorf("%w: its values have %d bytes, more than %d MiB", ErrRefused, size, maxValues>>20)
	}
	request, err := json.Marshal(request{
		Archive: c.archive, Name: or(opt.Name, c.Name), Namespace: or(opt.Namespace, "default"),
		KubeVersion: opt.KubeVersion, APIVersions: opt.APIVersions, CRDs: opt.IncludeCRDs, Tests: opt.IncludeTests,
		Texts: texts, Inline: opt.Values.Inline, Set: opt.Values.Set, SetString: opt.Values.SetString,
		Seconds: int(opt.Time/time.Second) + 2, Memory: opt.Memory,
	})
	if err != nil {
		return nil, fmt.Errorf("encoding values: %w", err)
	}
	return request, nil
}

// call runs this program as a renderer and gives what it answers.
func call(ctx context.Context, request []byte, opt Options) ([]byte, error) {
	limited, cancel := context.WithTimeout(ctx, opt.Time)
	defer cancel()
	cmd := exec.CommandContext(limited, "/proc/self/exe")
	cmd.Args = []string{rendererName}
	// Nothing of the caller's: templates cannot ask for it, and neither can a fault.
	cmd.Env = []string{rendererEnv + "=1", "GOTRACEBACK=none", "GODEBUG=" + os.Getenv("GODEBUG")}
	cmd.Dir = "/"
	cmd.Stdin = bytes.NewReader(request)
	cmd.WaitDelay = time.Second
	out, complaint := &bounded{left: maxRendered}, &bounded{left: 64 << 10, drop: true}
	cmd.Stdout, cmd.Stderr = out, complaint
	err := cmd.Run()
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case limited.Err() != nil:
		return nil, fmt.Errorf("%w: its templates did not end within %s", ErrRefused, opt.Time)
	case out.left < 0:
		return nil, fmt.Errorf("%w: it makes more than %d MiB of objects", ErrRefused, maxRendered>>20)
	case err == nil:
		return out.Bytes(), nil
	}
	said := complaint.String()
	for _, sign := range []string{"out of memory", "cannot allocate memory", "stack exceeds", "stack overflow", "failed to create new OS thread"} {
		if strings.Contains(said, sign) {
			return nil, fmt.Errorf("%w: its templates need more than %d MiB of memory", ErrRefused, opt.Memory>>20)
		}
	}
	first, _, _ := strings.Cut(strings.TrimSpace(said), "\n")
	return nil, fmt.Errorf("the process that runs its templates failed: %w: %s", err, first)
}

// bounded keeps what is written up to a limit, and then fails or drops the rest.
type bounded struct {
	bytes.Buffer
	left int
	drop bool
}

func (b *bounded) Write(p []byte) (int, error) {
	n := len(p)
	if b.drop && n > b.left {
		p = p[:b.left]
	}
	if b.left -= len(p); b.left < 0 {
		return 0, errors.New("it is too much")
	}
	_, err := b.Buffer.Write(p)
	return n, err
}
