package manifest

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	generator "github.com/invopop/jsonschema"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

var update = flag.Bool("update", false, "rewrite the schema")

const schemaFile = "rke2-bundle.schema.json"

// generate makes the schema of the types and their comments.
func generate(t *testing.T) []byte {
	t.Helper()
	r := generator.Reflector{ExpandedStruct: true, FieldNameTag: "json"}
	if err := r.AddGoComments("github.com/rancher/rke2/airgap/manifest", "."); err != nil {
		t.Fatal(err)
	}
	for k, c := range r.CommentMap { // AddGoComments keeps the types' paths as it was given them
		r.CommentMap[strings.Replace(k, "manifest/.", "manifest.", 1)] = strings.ReplaceAll(c, "\n", " ")
	}
	s := r.Reflect(&Bundle{})
	s.ID = "https://rke2.rancher.io/schemas/v1/rke2-bundle.json"
	s.Title = FileName
	if v, ok := s.Properties.Get("apiVersion"); ok {
		v.Const = Version
	}
	if v, ok := s.Properties.Get("kind"); ok {
		v.Const = Kind
	}
	if v, ok := s.Properties.Get("name"); ok {
		v.Pattern = bundleName.String()
	}
	if v, ok := s.Properties.Get("split"); ok {
		v.Pattern = size.String()
	}
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(b, '\n')
}

// TestSchema: what is committed is what the types say.
func TestSchema(t *testing.T) {
	want := generate(t)
	if *update {
		if err := os.WriteFile(schemaFile, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got := Schema(); !bytes.Equal(got, want) && !*update {
		t.Errorf("%s is not what the types say: run go test ./airgap/manifest -update", schemaFile)
	}
	for _, description := range []string{`"description": "Path of the folder."`, `"description": "Images are references to images in registries, by tag or digest."`} {
		if !bytes.Contains(want, []byte(description)) {
			t.Errorf("no %s in the schema", description)
		}
	}
}

// TestSchemaAgrees: an editor that knows the schema accepts what Load accepts, and refuses
// what is wrong in form.
func TestSchemaAgrees(t *testing.T) {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(generate(t)))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("schema.json", doc); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	valid := func(text string) error {
		var v any
		if err := yaml.Unmarshal([]byte(text), &v); err != nil {
			return err
		}
		b, err := json.Marshal(v)
		if err != nil {
			return err
		}
		v, err = jsonschema.UnmarshalJSON(bytes.NewReader(b))
		if err != nil {
			return err
		}
		return schema.Validate(v)
	}
	full, err := os.ReadFile(filepath.Join("testdata", "full.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for what, text := range map[string]string{"everything": string(full), "the least": head + "images: [busybox]\n"} {
		if err := valid(text); err != nil {
			t.Errorf("%s: the schema: %v", what, err)
		}
		if _, err := parse("x.yaml", []byte(text)); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, text := range refused {
		if strings.HasPrefix(what, "(content) ") {
			continue // what no schema can know
		}
		if valid(head+text.body) == nil {
			t.Errorf("%s: the schema takes it", what)
		}
	}
}
