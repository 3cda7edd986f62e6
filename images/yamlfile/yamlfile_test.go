package yamlfile

import (
	"errors"
	"testing"
)

func TestDecode(t *testing.T) {
	for content, want := range map[string]string{
		"a: b\n":             "",
		"a: b\nc: d\n":       `x.yaml:2: unknown key "c"`,
		"a: [b]\n":           "x.yaml:1: cannot unmarshal !!seq into string",
		"a: b\na: c\n":       `x.yaml:2: mapping key "a" already defined at line 1`,
		"a: b\n---\na: c\n":  "x.yaml:2: a second document: only one is read",
		"a: \"b\n":           "x.yaml:2: found unexpected end of stream",
		"# nothing but this": "x.yaml: it is empty",
		"":                   "x.yaml: it is empty",
	} {
		var out struct{ A string }
		err := Decode("x.yaml", []byte(content), &out)
		if got := text(err); got != want {
			t.Errorf("%q: %q instead of %q", content, got, want)
		}
		if empty := errors.Is(err, ErrEmpty); empty != (want == "x.yaml: it is empty") {
			t.Errorf("%q: ErrEmpty: %v", content, empty)
		}
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
