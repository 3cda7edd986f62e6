package charts

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

const minimal = "apiVersion: v2\nname: x\nversion: 1.0.0\n"

// entry is one entry of a handmade archive.
type entry struct {
	name, data string
	kind       byte // 0: a regular file
	size       int64
	link       string
}

// tgz makes an archive of anything.
func tgz(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(z)
	for _, e := range entries {
		h := &tar.Header{Typeflag: e.kind, Name: e.name, Mode: 0o644, Size: int64(len(e.data)), Linkname: e.link}
		if e.kind == 0 {
			h.Typeflag = tar.TypeReg
		}
		if e.size > 0 {
			h.Size = e.size
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if e.size > 0 {
			_, err = io.Copy(w, io.LimitReader(zeros{}, e.size))
		} else {
			_, err = io.WriteString(w, e.data)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func TestHostileArchives(t *testing.T) {
	chart := entry{name: "x/Chart.yaml", data: minimal}
	nested := tgz(t, chart)
	for range maxNesting + 1 {
		nested = tgz(t, chart, entry{name: "x/charts/x.tgz", data: string(nested)})
	}
	bomb := tgz(t, chart, entry{name: "x/a", size: maxFile}, entry{name: "x/b", size: maxFile})
	var bombs []entry
	for i := range 12 {
		bombs = append(bombs, entry{name: fmt.Sprintf("x/charts/b%d.tgz", i), data: string(bomb)})
	}
	many := []entry{chart}
	for i := range maxFiles {
		many = append(many, entry{name: fmt.Sprintf("x/f%d", i)})
	}
	var trailing bytes.Buffer
	z := gzip.NewWriter(&trailing)
	inner, err := gzip.NewReader(bytes.NewReader(tgz(t, chart)))
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(z, io.MultiReader(inner, io.LimitReader(zeros{}, maxUnpacked)))
	if err := errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	damaged := tgz(t, chart)
	damaged[len(damaged)-8] ^= 1

	for name, c := range map[string]struct {
		archive []byte
		kind    error
		says    string
	}{
		"nothing":                  {nil, ErrTruncated, "empty"},
		"no gzip":                  {[]byte("PK\x03\x04 this is no archive of ours"), ErrNotChart, "not a .tgz"},
		"no tar":                   {gz(t, "hello, this is text"), ErrTruncated, ""},
		"no chart":                 {tgz(t, entry{name: "x/README"}), ErrNotChart, "no Chart.yaml"},
		"no files":                 {tgz(t), ErrNotChart, "no Chart.yaml"},
		"Chart.yaml at the top":    {tgz(t, entry{name: "Chart.yaml", data: minimal}), ErrNotChart, "hold one folder"},
		"dot-dot":                  {tgz(t, chart, entry{name: "x/../../etc/passwd"}), ErrRefused, "outside"},
		"dot-dot first":            {tgz(t, chart, entry{name: "../x/y"}), ErrRefused, "outside"},
		"dot-dot in the middle":    {tgz(t, chart, entry{name: "x/a/../b"}), ErrRefused, "outside"},
		"absolute":                 {tgz(t, chart, entry{name: "/etc/passwd"}), ErrRefused, "outside"},
		"backslashes":              {tgz(t, chart, entry{name: `x\..\..\y`}), ErrRefused, "outside"},
		"drive":                    {tgz(t, chart, entry{name: `c:\x\y`}), ErrRefused, "outside"},
		"symbolic link":            {tgz(t, chart, entry{name: "x/l", kind: tar.TypeSymlink, link: "/etc/passwd"}), ErrRefused, "link or a device"},
		"hard link":                {tgz(t, chart, entry{name: "x/l", kind: tar.TypeLink, link: "/etc/passwd"}), ErrRefused, "link or a device"},
		"device":                   {tgz(t, chart, entry{name: "x/d", kind: tar.TypeChar}), ErrRefused, "link or a device"},
		"twice":                    {tgz(t, chart, chart), ErrRefused, "twice"},
		"a large file":             {tgz(t, chart, entry{name: "x/big", size: maxFile + 1}), ErrRefused, "more than the 5 MiB"},
		"zip bombs in charts":      {tgz(t, append(bombs, chart)...), ErrRefused, "unpacks to more than 100 MiB"},
		"zeros after its end":      {trailing.Bytes(), ErrRefused, "unpacks to more than 100 MiB"},
		"charts in charts":         {nested, ErrRefused, "nested"},
		"many files":               {tgz(t, many...), ErrRefused, "more than 20000 files"},
		"wrong checksum":           {damaged, ErrDamaged, "checksum"},
		"two archives":             {append(tgz(t, chart), tgz(t, entry{name: "x/y"})...), nil, ""},
		"Chart.yaml without name":  {tgz(t, entry{name: "x/Chart.yaml", data: "apiVersion: v2\nversion: 1.0.0\n"}), ErrNotChart, "name is required"},
		"Chart.yaml of nonsense":   {tgz(t, entry{name: "x/Chart.yaml", data: "\x00{"}), ErrNotChart, "Chart.yaml"},
		"a name with a path":       {tgz(t, entry{name: "x/Chart.yaml", data: "apiVersion: v2\nname: ../x\nversion: 1.0.0\n"}), ErrNotChart, "name"},
		"a name that is an option": {tgz(t, entry{name: "x/Chart.yaml", data: "apiVersion: v2\nname: --x\nversion: 1.0.0\n"}), ErrNotChart, "name"},
		"aliases of aliases":       {tgz(t, entry{name: "x/Chart.yaml", data: aliases("annotations")}), ErrNotChart, "Chart.yaml"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse(c.archive, "it")
			if c.kind == nil {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want %v with %q", err, c.kind, c.says)
			}
		})
	}
}

func gz(t *testing.T, text string) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err := io.WriteString(z, text); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// aliases is YAML whose meaning is 10^9 times its length.
func aliases(key string) string {
	var b strings.Builder
	b.WriteString(minimal + "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n")
	for i := range 9 {
		fmt.Fprintf(&b, "a%d: &a%d [%s]\n", i+1, i+1, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i), 10), ", "))
	}
	fmt.Fprintf(&b, "%s: {a: *a9}\n", key)
	return b.String()
}

// TestTruncatedArchives cuts an archive everywhere.
func TestTruncatedArchives(t *testing.T) {
	whole := mustLoad(t, shop).Archive()
	for n := range len(whole) {
		if _, err := Parse(whole[:n], "it"); err == nil {
			t.Fatalf("cut after %d of %d bytes, it is taken", n, len(whole))
		} else if n > 20 && !errors.Is(err, ErrTruncated) {
			t.Fatalf("cut after %d of %d bytes: %v", n, len(whole), err)
		}
	}
}

// withTemplate is a chart of one template.
func withTemplate(t *testing.T, template string, more ...entry) *Chart {
	t.Helper()
	c, err := Parse(tgz(t, append([]entry{{name: "x/Chart.yaml", data: minimal}, {name: "x/templates/it.yaml", data: template}}, more...)...), "it")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestHostileTemplates bounds what templates may take in time and memory, theirs and
// this process's.
func TestHostileTemplates(t *testing.T) {
	spread := `{{ define "l0" }}xxxxxxxxxx{{ end }}`
	for i := range 12 {
		spread += fmt.Sprintf(`{{ define "l%d" }}%s{{ end }}`, i+1, strings.Repeat(fmt.Sprintf(`{{ include "l%d" . }}`, i), 10))
	}
	for name, c := range map[string]struct {
		template string
		says     string
	}{
		"a loop without end":        {`{{ range until 30000 }}{{ range until 30000 }}{{ range until 30000 }}{{ end }}{{ end }}{{ end }}`, "did not end within 2s"},
		"a list beyond memory":      {`{{ $x := until 2000000000 }}`, "more than 256 MiB of memory"},
		"a text beyond memory":      {`{{ $x := repeat 2000000000 "x" }}`, "more than 256 MiB of memory"},
		"a text that doubles":       {`{{ $x := "x" }}{{ range until 60 }}{{ $x = printf "%s%s" $x $x }}{{ end }}`, "more than 256 MiB of memory"},
		"includes itself":           {`{{ define "x" }}{{ include "x" . }}{{ end }}{{ include "x" . }}`, "nested reference"},
		"calls itself":              {`{{ define "x" }}{{ template "x" . }}{{ end }}{{ template "x" . }}`, ""},
		"tpl calls itself":          {`{{ define "x" }}{{ tpl "{{ include \"x\" . }}" . }}{{ end }}{{ include "x" . }}`, ""},
		"ten to the twelfth":        {spread + `{{ $x := include "l12" . }}`, "did not end within 2s"},
		"objects beyond the bound":  {`{{ range $i := until 3000 }}{{ "\n---\n" }}apiVersion: v1` + "\nkind: ConfigMap\nmetadata: {name: c}\ndata: {x: " + `{{ repeat 25000 "x" }}}{{ end }}`, ""},
		"YAML's aliases of aliases": {strings.Replace(aliases("spec"), minimal, "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\n", 1), "aliasing"},
		"YAML without end":          {"apiVersion: v1\nkind: Pod\nspec: " + strings.Repeat("[", 100_000), ""},
		"a pattern that backtracks": {`{{ regexMatch "(a+)+$" (repeat 50000 "a") }}{{ range until 100000 }}{{ $x := regexMatch "(a|b|ab)*c" (repeat 50000 "ab") }}{{ end }}`, "did not end within 2s"},
		"no object":                 {"just: text", "no apiVersion and kind"},
		"no map":                    {"- one", "not a Kubernetes object"},
		"its environment":           {`{{ env "HOME" }}`, `function "env" not defined`},
		"a panic":                   {`{{ index (list) 5 }}`, "out of range"},
		"lists of lists":            {listOfLists(10), "nested more than 4 deep"},
	} {
		t.Run(name, func(t *testing.T) {
			started := time.Now()
			limit := 20 * time.Second
			if strings.Contains(c.says, "2s") {
				limit = 2 * time.Second
			}
			_, err := withTemplate(t, c.template).Render(t.Context(), Options{Time: limit, Memory: 256 << 20})
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want %q", err, c.says)
			}
			if err != nil && (len(err.Error()) > 3000 || strings.Contains(err.Error(), "goroutine")) {
				t.Errorf("the error is %d bytes: %.300s", len(err.Error()), err)
			}
			if took := time.Since(started); took > limit+10*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	if m.Sys > 400<<20 {
		t.Errorf("this process took %d MiB", m.Sys>>20)
	}
}

func listOfLists(depth int) string {
	s := `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"x"}}`
	for range depth {
		s = `{"apiVersion":"v1","kind":"List","items":[` + s + `]}`
	}
	return s
}

func TestRenderIsCancelled(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	started := time.Now()
	_, err := withTemplate(t, `{{ range until 30000 }}{{ range until 30000 }}{{ end }}{{ end }}`).Render(ctx, Options{})
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(started) > 10*time.Second {
		t.Errorf("got %v after %s", err, time.Since(started))
	}
}

func TestHugeValues(t *testing.T) {
	c := withTemplate(t, "# nothing")
	path := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(path, bytes.Repeat([]byte("# comment\n"), maxValues/9), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Render(t.Context(), Options{Values: Values{Files: []string{path}}}); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v", err)
	}
	half := Text{"half", bytes.Repeat([]byte("# comment\n"), maxValues/20+10)}
	if _, err := c.Render(t.Context(), Options{Values: Values{Texts: []Text{half, half}}}); !errors.Is(err, ErrRefused) {
		t.Errorf("got %v", err)
	}
	for _, text := range []string{aliases("x"), "- a list", "a: [", strings.Repeat("{a: ", 50_000)} {
		if _, err := c.Render(t.Context(), Options{Values: Values{Texts: []Text{{"the values", []byte(text)}}}}); err == nil || !strings.Contains(err.Error(), "the values") {
			t.Errorf("%.20q: got %v", text, err)
		}
	}
	for _, set := range []string{"a[99999999]=1", "a=b,c", strings.Repeat("a.", 1000) + "b=1"} {
		if _, err := c.Render(t.Context(), Options{Values: Values{Set: []string{set}}}); err == nil || !strings.Contains(err.Error(), "value") {
			t.Errorf("%.20q: got %v", set, err)
		}
	}
}

// TestSchemas holds values against a chart's schema, and fetches no part of it.
func TestSchemas(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret.json")
	if err := os.WriteFile(secret, []byte(`{"type":"string"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	render := func(schema, values string) error {
		c := withTemplate(t, "# nothing", entry{name: "x/values.schema.json", data: schema})
		_, err := c.Render(t.Context(), Options{Values: Values{Texts: []Text{{"v", []byte(values)}}}})
		return err
	}
	if err := render(`{"properties":{"a":{"type":"integer"}}}`, "a: one"); err == nil || !strings.Contains(err.Error(), "schema of chart x") || !strings.Contains(err.Error(), "/a") {
		t.Errorf("got %v", err)
	}
	if err := render(`{"properties":{"a":{"type":"integer"}}}`, "a: 1"); err != nil {
		t.Error(err)
	}
	for _, elsewhere := range []string{"http://127.0.0.1:9/schema.json", "file://" + secret} {
		if err := render(`{"properties":{"a":{"$ref":"`+elsewhere+`"}}}`, "a: 1"); err != nil {
			t.Errorf("%s: %v", elsewhere, err)
		}
	}
	if err := render(`{"type": [`, "a: 1"); err == nil {
		t.Error("a broken schema is taken")
	}
}

// TestFoldersThatLead holds that nothing outside of a chart's folder gets into it.
func TestFoldersThatLead(t *testing.T) {
	write := func(dir, name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		make func(dir string) error
		says string
	}{
		"a link out":     {func(dir string) error { return os.Symlink("/etc/hostname", filepath.Join(dir, "l")) }, "links must stay within"},
		"a link up":      {func(dir string) error { return os.Symlink("../../..", filepath.Join(dir, "l")) }, "links must stay within"},
		"a link nowhere": {func(dir string) error { return os.Symlink("nothing", filepath.Join(dir, "l")) }, "no such file"},
		"a folder link":  {func(dir string) error { return os.Symlink("templates", filepath.Join(dir, "l")) }, "not a regular file"},
		"a pipe":         {func(dir string) error { return exec.Command("mkfifo", filepath.Join(dir, "pipe")).Run() }, "not a regular file"},
		"a large file":   {func(dir string) error { return os.WriteFile(filepath.Join(dir, "big"), make([]byte, maxFile+1), 0o644) }, ".helmignore"},
		"no Chart.yaml":  {func(dir string) error { return os.Remove(filepath.Join(dir, "Chart.yaml")) }, "no Chart.yaml"},
	} {
		dir := filepath.Join(t.TempDir(), "x")
		write(dir, "Chart.yaml", minimal)
		write(dir, "templates/a.yaml", "# nothing")
		if err := c.make(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := Package(dir); err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	dir := filepath.Join(t.TempDir(), "x")
	write(dir, "Chart.yaml", minimal)
	write(dir, "files/real", "content")
	if err := os.Symlink("files/real", filepath.Join(dir, "alias")); err != nil {
		t.Fatal(err)
	}
	c, err := Package(dir)
	if err != nil {
		t.Fatal(err)
	}
	files, err := readArchive(c.Archive(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if f.Name == "alias" && string(f.Data) == "content" {
			return
		}
	}
	t.Error("a link within the folder is not followed")
}
