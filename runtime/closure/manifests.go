package closure

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/rancher/rke2/charts"
)

// manifest is a file of objects.
type manifest struct {
	name     string // for people: a path, or IMAGE:PATH
	text     []byte
	packaged bool // it comes with the node
}

const (
	maxManifest  = 16 << 20
	maxManifests = 256 << 20 // all of them
)

// manifests are those that the node brings and the operator's. One of the operator's
// that has the name of one that the node brings is what an earlier start delivered, and
// is replaced by the node's.
func (p *prover) manifests(ctx context.Context) ([]manifest, error) {
	packaged, err := p.packaged(ctx)
	if err != nil {
		return nil, err
	}
	var out []manifest
	delivered := map[string]bool{}
	for _, m := range packaged {
		delivered[filepath.Base(m.name)] = true
		base := filepath.Base(m.name)
		if why := p.in.Settings.off(strings.TrimSuffix(base, filepath.Ext(base)), annotations(m)); why != "" {
			continue
		}
		out = append(out, m)
	}
	left := int64(maxManifests)
	for _, root := range p.in.Manifests {
		files, err := p.list(root)
		if err != nil {
			return nil, err
		}
		for _, path := range files {
			if delivered[filepath.Base(path)] && filepath.Dir(path) == filepath.Clean(root) {
				continue
			}
			text, err := readManifest(path, left)
			if err != nil {
				return nil, err
			}
			left -= int64(len(text))
			out = append(out, manifest{name: path, text: text})
		}
	}
	return out, nil
}

// annotations are those of a packaged manifest's HelmChart. What cannot be read has none:
// that it can't is said where its objects are taken.
func annotations(m manifest) map[string]string {
	objects, err := charts.ParseObjects(m.name, m.text)
	if err != nil {
		return nil
	}
	for _, o := range objects {
		if o.APIVersion == helmAPI && o.Kind == "HelmChart" {
			return o.Annotations
		}
	}
	return nil
}

// list gives the files of a folder that a server would deploy, in order, or the file
// itself.
func (p *prover) list(root string) ([]string, error) {
	var files []string
	skipped := map[string]bool{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if path == root || entry.IsDir() {
			if !entry.IsDir() {
				files = append(files, path)
			}
			return nil
		}
		name := entry.Name()
		if of, ok := strings.CutSuffix(name, ".skip"); ok {
			skipped[of] = true
		}
		if !strings.HasPrefix(name, ".") && isManifest(name) && !p.disabled(root, path) {
			files = append(files, path)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("looking for manifests in %s: %w", root, err)
	}
	return slices.DeleteFunc(files, func(f string) bool { return skipped[filepath.Base(f)] }), nil
}

func isManifest(name string) bool {
	switch strings.ToLower(filepath.Ext(name)) {
	case ".yaml", ".yml", ".json":
		return true
	}
	return false
}

// disabled tells whether `disable` names the file, without its ending, or a folder that
// it is in.
func (p *prover) disabled(root, path string) bool {
	rel, err := filepath.Rel(root, path)
	if err != nil {
		return false
	}
	base := filepath.Base(rel)
	if p.in.Settings.off(strings.TrimSuffix(base, filepath.Ext(base)), nil) != "" {
		return true
	}
	for dir := filepath.Dir(rel); dir != "."; dir = filepath.Dir(dir) {
		if slices.Contains(p.in.Settings.Disable, dir) {
			return true
		}
	}
	return false
}

func readManifest(path string, left int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading manifest: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("reading manifest %s: %w", path, err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("reading manifest %s: not a regular file", path)
	}
	limit := min(left, maxManifest)
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading manifest %s: %w", path, err)
	}
	if int64(len(text)) > limit {
		return nil, fmt.Errorf("reading manifest %s: it has more than %d bytes, or all of them have more than %d", path, maxManifest, maxManifests)
	}
	return text, nil
}

// read takes the objects of all manifests: what configures charts first, whatever its
// place, because a cluster brings them together in the end.
func (p *prover) read(files []manifest) {
	p.configs, p.secrets = map[string]helmChartConfig{}, map[string]map[string][]byte{}
	type placed struct {
		charts.Object
		file manifest
	}
	var all []placed
	for _, m := range files {
		objects, err := charts.ParseObjects(m.name, m.text)
		if err != nil {
			p.fault("a manifest cannot be read, so its images are not known: %v", err)
			continue
		}
		for _, o := range objects {
			p.learn(o)
			all = append(all, placed{o, m})
		}
	}
	for _, o := range all {
		if o.APIVersion == helmAPI && o.Kind == "HelmChart" {
			q, err := decodeHelmChart(o.Object, queued{file: o.file.name, packaged: o.file.packaged})
			if err != nil {
				p.fault("%v", err)
				continue
			}
			p.queue = append(p.queue, q)
			continue
		}
		for _, u := range charts.Images([]charts.Object{o.Object}) {
			p.need(u, "manifest "+o.file.name)
		}
	}
}

// learn takes from an object what others depend on.
func (p *prover) learn(o charts.Object) {
	namespace := first(o.Namespace, "default")
	switch {
	case o.Kind == "CustomResourceDefinition":
		p.learnKinds(o)
	case o.Kind == "Secret" && o.APIVersion == "v1":
		p.learnSecret(namespace+"/"+o.Name, o)
	case o.Kind == "HelmChartConfig" && o.APIVersion == helmAPI:
		c := helmChartConfig{source: o.Source}
		if err := json.Unmarshal(o.Raw, &c); err != nil {
			p.fault("%s: %s: %v", o.Source, o, err)
			return
		}
		if before, ok := p.configs[namespace+"/"+o.Name]; ok && before.source != o.Source {
			p.note("HelmChartConfig %s/%s is in %s and in %s: the latter is taken", namespace, o.Name, before.source, o.Source)
		}
		p.configs[namespace+"/"+o.Name] = c
	}
}

func (p *prover) learnSecret(key string, o charts.Object) {
	var secret struct {
		Data       map[string]string `json:"data"`
		StringData map[string]string `json:"stringData"`
	}
	if err := json.Unmarshal(o.Raw, &secret); err != nil {
		return // the API server will say so
	}
	values := map[string][]byte{}
	for k, v := range secret.Data {
		raw, err := base64.StdEncoding.DecodeString(v)
		if err == nil {
			values[k] = raw
		}
	}
	for k, v := range secret.StringData {
		values[k] = []byte(v)
	}
	p.secrets[key] = values
}

func (p *prover) learnKinds(o charts.Object) {
	var crd struct {
		Spec struct {
			Group    string `json:"group"`
			Version  string `json:"version"`
			Versions []struct {
				Name   string `json:"name"`
				Served *bool  `json:"served"`
			} `json:"versions"`
			Names struct {
				Kind string `json:"kind"`
			} `json:"names"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(o.Raw, &crd); err != nil || crd.Spec.Group == "" {
		return
	}
	add := func(version string) {
		p.apis[crd.Spec.Group+"/"+version] = true
		p.apis[crd.Spec.Group+"/"+version+"/"+crd.Spec.Names.Kind] = true
	}
	if crd.Spec.Version != "" {
		add(crd.Spec.Version)
	}
	for _, v := range crd.Spec.Versions {
		if v.Served == nil || *v.Served {
			add(v.Name)
		}
	}
}
