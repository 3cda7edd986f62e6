package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func write(t *testing.T, dir string, contents map[string]string) string {
	t.Helper()
	for name, content := range contents {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// The names are those that helm-controller v0.17 projects; later ones win, --set over
// files, --set-string over --set wherever it stands.
func TestValuesOrder(t *testing.T) {
	f := files{config: write(t, t.TempDir(), map[string]string{
		"values-0-000-HelmChart-ValuesContent.yaml":       "a: 0\nb: 0\nc: 0\nd: 0\ne: {x: 0, z: 0}\nlist: [1, 2]\n",
		"values-0-001-HelmChart-ValuesSecret.yaml":        "b: 1\nc: 1\nd: 1\n",
		"values-1-000-HelmChartConfig-ValuesContent.yaml": "c: 2\nd: 2\ne: {z: 2}\nlist: [3]\n",
		"values-1-001-HelmChartConfig-ValuesSecret.yaml":  "", // an empty key of a secret
		"ca-file.pem": "not: values",
		"notes.txt":   "not: values",
	})}
	v, err := mergeValues(job{name: "web", setString: []string{"d=x", "cidr=a\\,b"}, set: []string{"d=3", "n=4", "gone=null"}}, f)
	if err != nil {
		t.Fatal(err)
	}
	got, _ := json.Marshal(v)
	want := `{"a":0,"b":1,"c":2,"cidr":"a,b","d":"x","e":{"x":0,"z":2},"gone":null,"list":[3],"n":4}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestValuesOfNothing(t *testing.T) {
	v, err := mergeValues(job{}, files{config: filepath.Join(t.TempDir(), "none")})
	if err != nil || len(v) != 0 {
		t.Errorf("%v, %v", v, err)
	}
}

func TestBadValues(t *testing.T) {
	f := files{config: write(t, t.TempDir(), map[string]string{"values-0-000.yaml": "a: [1\n"})}
	if _, err := mergeValues(job{name: "web"}, f); err == nil || !strings.Contains(err.Error(), "values-0-000.yaml") {
		t.Errorf("the error does not name the file: %v", err)
	}
	if _, err := mergeValues(job{name: "web", set: []string{"a[x]=1"}}, files{}); err == nil || !strings.Contains(err.Error(), "HelmChart web") {
		t.Errorf("got %v", err)
	}
}
