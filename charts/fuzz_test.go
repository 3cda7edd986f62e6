package charts

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"testing"
)

// FuzzParse: whatever an archive says, reading it ends, without a panic and within the
// bounds; and what is taken can be taken again.
func FuzzParse(f *testing.F) {
	whole := tgz(f, entry{name: "x/Chart.yaml", data: minimal}, entry{name: "x/templates/a.yaml", data: "a"})
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Add(tgz(f, entry{name: "x/Chart.yaml", data: minimal}, entry{name: "x/charts/y.tgz", data: string(whole)}))
	f.Fuzz(func(t *testing.T, archive []byte) {
		c, err := Parse(archive, "it")
		if err != nil {
			return
		}
		if c.Name == "" || c.Version == "" {
			t.Error("a chart without a name or version")
		}
		if _, err := c.Artifact(); err != nil {
			t.Error(err)
		}
	})
}

// FuzzEntries is FuzzParse of what is in the gzip: mutations of that seldom get through
// its checksum.
func FuzzEntries(f *testing.F) {
	unpacked := func(archive []byte) []byte {
		z, err := gzip.NewReader(bytes.NewReader(archive))
		if err != nil {
			f.Fatal(err)
		}
		b, err := io.ReadAll(z)
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	chart := entry{name: "x/Chart.yaml", data: minimal}
	f.Add(unpacked(tgz(f, chart, entry{name: "x/templates/a.yaml", data: "a"})))
	f.Add(unpacked(tgz(f, chart, entry{name: `x\..\y`}, entry{name: "x/d", kind: '5'}, entry{name: "x/l", kind: '2', link: "/"})))
	f.Add(unpacked(tgz(f, chart, entry{name: "x/charts/y.tgz", data: string(tgz(f, chart))})))
	f.Fuzz(func(t *testing.T, content []byte) {
		var out bytes.Buffer
		z, err := gzip.NewWriterLevel(&out, gzip.NoCompression)
		if err != nil {
			t.Fatal(err)
		}
		_, err = z.Write(content)
		if err := errors.Join(err, z.Close()); err != nil {
			t.Fatal(err)
		}
		files, err := readArchive(out.Bytes(), nil)
		if err != nil {
			return
		}
		for _, file := range files {
			if again, err := inside("x/" + file.Name); err != nil || again != file.Name {
				t.Errorf("%q is not below the chart's folder: %q, %v", file.Name, again, err)
			}
		}
	})
}

// FuzzParseObjects: whatever a manifest says, reading it and looking for images ends.
func FuzzParseObjects(f *testing.F) {
	for _, text := range []string{
		"apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: [{image: a}]}\n---\n{}\n",
		`{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"Pod"}]}`,
		"%YAML 1.1\n--- # x\napiVersion: v1\nkind: ConfigMap\ndata: {a.yaml: \"apiVersion: v1\\nkind: Pod\\nimage: x\"}\n...\n",
		"apiVersion: v1\nkind: PodList\nitems: [{spec: {volumes: [{image: {reference: x}}]}}]",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		objects, err := ParseObjects("it", text)
		if err != nil {
			return
		}
		for _, u := range Images(objects) {
			if u.Path == "" || u.Object == "" {
				t.Errorf("a use without a place: %+v", u)
			}
		}
	})
}
