package charts

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/distribution/reference"
	"sigs.k8s.io/yaml"
)

// Certainty says how an image is known to be needed.
type Certainty string

const (
	// Needed images are run: a container's, a volume's, an image field of an object, or
	// an argument that hands an image to a controller.
	Needed Certainty = "needed"
	// Possible images are only spoken of: the chart's list of what it may use, or an
	// argument that looks like an image.
	Possible Certainty = "possible"
)

// Use is one place that an image is used in.
type Use struct {
	// Image is the reference as it is written; Reference is its full form, as a container
	// runtime takes it, "" if it is none: a container that cannot start.
	Image     string    `json:"image"`
	Reference string    `json:"reference,omitempty"`
	Certainty Certainty `json:"certainty"`
	// Chart is the chart and subchart that made the object, joined with "/"; "" if none did.
	Chart     string `json:"chart,omitempty"`
	Object    string `json:"object"`              // Kind namespace/name
	Container string `json:"container,omitempty"` // name; "" if it is not a container's
	Path      string `json:"path"`                // of the field in the object
	Source    string `json:"source,omitempty"`    // file or template
}

// Images lists the uses of images in objects, in the order of the objects. Pod specs
// are found wherever they are, so also in custom resources; so are fields named image.
// Maps of registry, repository and tag are not put together.
func Images(objects []Object) []Use {
	var out []Use
	for _, o := range objects {
		out = append(out, imagesOf(o)...)
	}
	return out
}

// DeclaredImages lists what the chart's artifacthub.io/images annotation names, which
// its maintainers keep by hand.
func (c *Chart) DeclaredImages() []Use {
	text, ok := c.metadata.Annotations["artifacthub.io/images"]
	if !ok {
		return nil
	}
	var list []struct {
		Image string `json:"image"`
	}
	if err := yaml.Unmarshal([]byte(text), &list); err != nil {
		return nil // documentation, not configuration
	}
	var out []Use
	for i, e := range list {
		if ref := fullReference(e.Image); ref != "" {
			out = append(out, Use{Image: e.Image, Reference: ref, Certainty: Possible, Chart: c.Name, Object: "Chart.yaml", Path: fmt.Sprintf("annotations.artifacthub.io/images[%d]", i)})
		}
	}
	return out
}

func imagesOf(o Object) []Use {
	if o.Kind == "CustomResourceDefinition" {
		return nil // schemas, with examples
	}
	var content any
	if err := json.Unmarshal(o.Raw, &content); err != nil {
		return nil // Raw was decoded before
	}
	w := walker{base: Use{Chart: o.Chart, Object: o.String(), Source: o.Source}}
	if o.Kind == "ConfigMap" || o.Kind == "Secret" {
		w.texts(content)
		return w.out
	}
	w.walk(content, "", 0)
	return w.out
}

type walker struct {
	base Use
	out  []Use
}

// maxDepth bounds how deep an object is looked into.
const maxDepth = 100

func (w *walker) walk(v any, path string, depth int) {
	if depth > maxDepth {
		return
	}
	switch v := v.(type) {
	case []any:
		for i, e := range v {
			w.walk(e, path+"["+strconv.Itoa(i)+"]", depth+1)
		}
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			w.field(v, key, join(path, key), depth)
		}
	}
}

func (w *walker) field(in map[string]any, key, path string, depth int) {
	list, isList := in[key].([]any)
	switch {
	case isList && (key == "containers" || key == "initContainers" || key == "ephemeralContainers"):
		for i, e := range list {
			at := path + "[" + strconv.Itoa(i) + "]"
			if c, ok := e.(map[string]any); ok {
				w.container(c, at, depth+1)
				continue
			}
			w.walk(e, at, depth+1)
		}
		return
	case isList && key == "volumes":
		for i, e := range list {
			volume, _ := e.(map[string]any)
			image, _ := volume["image"].(map[string]any)
			if ref, ok := image["reference"].(string); ok {
				w.add(ref, "", path+"["+strconv.Itoa(i)+"].image.reference", Needed)
			}
		}
	case key == "image" || key == "jobImage":
		if s, ok := in[key].(string); ok && fullReference(s) != "" {
			w.add(s, "", path, Needed)
		}
	}
	w.walk(in[key], path, depth+1)
}

// container takes a container's image, and those that it is told about.
func (w *walker) container(c map[string]any, path string, depth int) {
	name, _ := c["name"].(string)
	if image, ok := c["image"].(string); ok {
		w.add(image, name, path+".image", Needed)
	}
	for _, field := range []string{"command", "args"} {
		list, _ := c[field].([]any)
		for i, e := range list {
			arg, ok := e.(string)
			if !ok {
				continue
			}
			flag, value, ok := strings.Cut(arg, "=")
			if !ok && i > 0 { // --flag value
				flag, _ = list[i-1].(string)
				value = arg
			}
			if strings.HasPrefix(flag, "-") {
				w.told(flag, value, name, fmt.Sprintf("%s.%s[%d]", path, field, i))
			}
		}
	}
	env, _ := c["env"].([]any)
	for i, e := range env {
		pair, _ := e.(map[string]any)
		key, _ := pair["name"].(string)
		value, _ := pair["value"].(string)
		w.told(key, value, name, fmt.Sprintf("%s.env[%d].value", path, i))
	}
	// What is left, such as a sidecar's own template.
	rest := maps.Clone(c)
	for _, done := range []string{"image", "command", "args", "env"} {
		delete(rest, done)
	}
	w.walk(rest, path, depth)
}

// told takes an image that a setting names: surely if the setting is called so.
func (w *walker) told(setting, value, container, path string) {
	if !isQualified(value) {
		return
	}
	certainty := Possible
	if strings.Contains(strings.ToLower(setting), "image") {
		certainty = Needed
	}
	w.add(value, container, path, certainty)
}

// isQualified tells a reference with a registry and a tag or digest from other words.
func isQualified(s string) bool {
	named, err := reference.ParseNamed(s) // of canonical form only
	if err != nil {
		return false
	}
	domain := reference.Domain(named)
	return !reference.IsNameOnly(named) && strings.HasPrefix(s, domain+"/") && strings.ContainsAny(domain, ".:")
}

// texts looks for manifests in the values of a ConfigMap or a Secret, such as the
// template of a pod that a controller makes.
func (w *walker) texts(content any) {
	object, _ := content.(map[string]any)
	for _, field := range []string{"data", "stringData"} {
		data, _ := object[field].(map[string]any)
		for _, key := range slices.Sorted(maps.Keys(data)) {
			text, ok := data[key].(string)
			if !ok || !strings.Contains(text, "image:") && !strings.Contains(text, `"image"`) || !strings.Contains(text, "apiVersion") {
				continue
			}
			objects, err := ParseObjects(key, []byte(text))
			if err != nil {
				continue // some program's own configuration
			}
			for _, o := range objects {
				var inner any
				if o.Kind == "ConfigMap" || o.Kind == "CustomResourceDefinition" || json.Unmarshal(o.Raw, &inner) != nil {
					continue
				}
				w.walk(inner, field+"["+key+"]", 0)
			}
		}
	}
}

func (w *walker) add(image, container, path string, certainty Certainty) {
	use := w.base
	use.Image, use.Container, use.Path, use.Certainty = image, container, path, certainty
	use.Reference = fullReference(image)
	w.out = append(w.out, use)
}

// fullReference is the reference as a container runtime takes it; "" if it takes none.
func fullReference(image string) string {
	named, err := reference.ParseDockerRef(image)
	if err != nil {
		return ""
	}
	return named.String()
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}
