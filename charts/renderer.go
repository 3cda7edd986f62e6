package charts

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/strvals"
	"sigs.k8s.io/yaml"
)

// A renderer is this very program, started under another name.
const (
	rendererName = "rke2-chart-renderer"
	rendererEnv  = "RKE2_CHART_RENDERER"
)

type request struct {
	Archive     []byte         `json:"archive"`
	Name        string         `json:"name"`
	Namespace   string         `json:"namespace"`
	KubeVersion string         `json:"kubeVersion"`
	APIVersions []string       `json:"apiVersions"`
	CRDs        bool           `json:"crds"`
	Tests       bool           `json:"tests"`
	Texts       []Text         `json:"texts"`
	Inline      map[string]any `json:"inline"`
	Set         []string       `json:"set"`
	SetString   []string       `json:"setString"`
	Seconds     int            `json:"seconds"` // of CPU
	Memory      int64          `json:"memory"`
}

type response struct {
	Error   string   `json:"error,omitempty"`
	Objects []Object `json:"objects,omitempty"`
}

// A program that renders charts is started again to run their templates. That it is
// such a child is found before main and before tests, so that no program that has this
// package can forget to look, and start itself for ever.
func init() {
	if len(os.Args) != 1 || os.Args[0] != rendererName || os.Getenv(rendererEnv) != "1" {
		return
	}
	if err := serve(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// serve answers one request.
func serve(in io.Reader, out io.Writer) error {
	log.SetOutput(io.Discard) // Helm's warnings
	var r request
	if err := json.NewDecoder(in).Decode(&r); err != nil {
		return fmt.Errorf("reading a request: %w", err)
	}
	if err := confine(r); err != nil {
		return err
	}
	objects, err := r.objects()
	answer := response{Objects: objects}
	if err != nil {
		answer = response{Error: shorten(err.Error())}
	}
	return json.NewEncoder(out).Encode(answer)
}

// confine bounds this process for good: it ends by itself, also without its parent.
func confine(r request) error {
	// Not a soft limit: near it, the collector would take all the time that is left.
	debug.SetGCPercent(50)
	debug.SetMaxStack(int(min(r.Memory/4, 256<<20)))
	// RLIMIT_DATA alone lets one allocation through that goes far beyond it, as Go maps
	// memory over a reservation that was there. What is reserved counts to RLIMIT_AS.
	reserved, err := addressSpace()
	if err != nil {
		return fmt.Errorf("bounding the renderer: %w", err)
	}
	const stacks = 128 << 20 // of threads that are yet to come
	for _, l := range []struct {
		what  int
		limit uint64
	}{
		{unix.RLIMIT_AS, reserved + uint64(r.Memory) + stacks},
		{unix.RLIMIT_DATA, uint64(r.Memory) + stacks},
		{unix.RLIMIT_CPU, uint64(r.Seconds) * 2},
		{unix.RLIMIT_FSIZE, 0},
		{unix.RLIMIT_CORE, 0},
	} {
		if err := unix.Setrlimit(l.what, &unix.Rlimit{Cur: l.limit, Max: l.limit}); err != nil {
			return fmt.Errorf("bounding the renderer: %w", err)
		}
	}
	return nil
}

// addressSpace is how many bytes of addresses this process has taken.
func addressSpace() (uint64, error) {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, err
	}
	first, _, _ := strings.Cut(string(text), " ")
	pages, err := strconv.ParseUint(first, 10, 64)
	return pages * uint64(os.Getpagesize()), err
}

// shorten keeps an error readable: a template's may quote all of its input.
func shorten(s string) string {
	const start, end = 400, 800 // the cause comes last
	if len(s) <= start+end {
		return s
	}
	return s[:start] + " … " + s[len(s)-end:]
}

func (r request) objects() ([]Object, error) {
	ch, err := load(r.Archive)
	if err != nil {
		return nil, err
	}
	values, err := r.values()
	if err != nil {
		return nil, err
	}
	caps, err := r.capabilities()
	if err != nil {
		return nil, err
	}
	if want := ch.Metadata.KubeVersion; want != "" && !chartutil.IsCompatibleRange(want, caps.KubeVersion.String()) {
		return nil, fmt.Errorf("it wants Kubernetes %s, and this is %s", want, caps.KubeVersion.String())
	}
	if err := chartutil.ProcessDependenciesWithMerge(ch, values); err != nil {
		return nil, fmt.Errorf("choosing its subcharts: %w", err)
	}
	release := chartutil.ReleaseOptions{Name: r.Name, Namespace: r.Namespace, Revision: 1, IsInstall: true}
	top, err := chartutil.ToRenderValuesWithSchemaValidation(ch, values, release, caps, true)
	if err != nil {
		return nil, fmt.Errorf("merging its values: %w", err)
	}
	merged, _ := top["Values"].(chartutil.Values)
	if err := checkSchemas(ch, merged); err != nil {
		return nil, err
	}
	rendered, err := engine.Engine{}.Render(ch, top)
	if err != nil {
		return nil, err
	}
	return r.collect(ch, rendered)
}

func load(archive []byte) (*chart.Chart, error) {
	files, err := readArchive(archive, nil)
	if err != nil {
		return nil, err
	}
	buffered := make([]*loader.BufferedFile, len(files))
	for i, f := range files {
		buffered[i] = &loader.BufferedFile{Name: f.Name, Data: f.Data}
	}
	ch, err := loader.LoadFiles(buffered)
	if err != nil {
		return nil, err
	}
	var missing []string
	for _, want := range ch.Metadata.Dependencies {
		if want != nil && !slices.ContainsFunc(ch.Dependencies(), func(d *chart.Chart) bool { return d.Name() == want.Name }) {
			missing = append(missing, want.Name)
		}
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("it lacks the charts that it depends on (%s): package it with helm package --dependency-update", strings.Join(missing, ", "))
	}
	return ch, nil
}

// values merges as Helm's command line does.
func (r request) values() (map[string]any, error) {
	all := map[string]any{}
	for _, t := range r.Texts {
		var v map[string]any
		if err := yaml.Unmarshal(trimBOM(t.YAML), &v); err != nil {
			return nil, fmt.Errorf("values of %s: %w", t.Name, err)
		}
		all = merge(all, v)
	}
	all = merge(all, r.Inline)
	for _, s := range r.Set {
		if err := strvals.ParseInto(s, all); err != nil {
			return nil, fmt.Errorf("value %q: %w", s, err)
		}
	}
	for _, s := range r.SetString {
		if err := strvals.ParseIntoString(s, all); err != nil {
			return nil, fmt.Errorf("value %q: %w", s, err)
		}
	}
	return all, nil
}

// merge puts b over a, map by map.
func merge(a, b map[string]any) map[string]any {
	out := make(map[string]any, len(a)+len(b))
	for k, v := range a {
		out[k] = v
	}
	for k, v := range b {
		above, ok := v.(map[string]any)
		below, was := out[k].(map[string]any)
		if ok && was {
			out[k] = merge(below, above)
			continue
		}
		out[k] = v
	}
	return out
}

func (r request) capabilities() (*chartutil.Capabilities, error) {
	caps := chartutil.DefaultCapabilities.Copy()
	version := or(r.KubeVersion, libraryVersion())
	if version != "" {
		// What a distribution appends to the version ("+rke2r2") is no part of it to Helm,
		// but a cluster says it, and charts may look.
		parsed, err := chartutil.ParseKubeVersion(version)
		if err != nil {
			return nil, fmt.Errorf("version of Kubernetes %q: %w", version, err)
		}
		caps.KubeVersion = *parsed
		caps.KubeVersion.Version = "v" + strings.TrimPrefix(version, "v")
	}
	caps.APIVersions = append(slices.Clone(caps.APIVersions), r.APIVersions...)
	return caps, nil
}

// libraryVersion is the version of Kubernetes whose libraries this program has; "" if it
// does not say.
func libraryVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, m := range info.Deps {
		if m.Path == "k8s.io/api" {
			// v0.35.0 is of Kubernetes 1.35.0.
			return strings.Replace(m.Version, "v0.", "v1.", 1)
		}
	}
	return ""
}

// collect gives the objects of what was rendered: those of crds/, then those of the
// templates, by name.
func (r request) collect(ch *chart.Chart, rendered map[string]string) ([]Object, error) {
	out := []Object{}
	if r.CRDs {
		for _, crd := range ch.CRDObjects() {
			objects, err := ParseObjects(crd.Filename, crd.File.Data)
			if err != nil {
				return nil, err
			}
			for _, o := range objects {
				o.Chart = chartOf(o.Source)
				out = append(out, o)
			}
		}
	}
	var names []string
	for name := range rendered {
		if strings.HasSuffix(name, "NOTES.txt") || strings.TrimSpace(rendered[name]) == "" {
			continue
		}
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		objects, err := ParseObjects(name, []byte(rendered[name]))
		if err != nil {
			return nil, err
		}
		for _, o := range objects {
			if o.Test() && !r.Tests {
				continue
			}
			o.Chart = chartOf(name)
			out = append(out, o)
		}
	}
	return out, nil
}

// chartOf reads chart/subchart from a template's name.
func chartOf(source string) string {
	parts := strings.Split(source, "/")
	var names []string
	for i := 0; i+1 < len(parts); i += 2 {
		names = append(names, parts[i])
		if parts[i+1] == "templates" || parts[i+1] == "crds" {
			return strings.Join(names, "/")
		}
		if parts[i+1] != "charts" {
			return ""
		}
	}
	return ""
}
