package buildkit

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

func TestContexts(t *testing.T) {
	for _, c := range []struct{ name, dockerfile, want string }{
		{"one", "FROM scratch\nCOPY --from=b / /\n", "b:2"},
		{"sorted, once, first line", "FROM scratch\nCOPY --from=b / /\nCOPY --from=a / /\nCOPY --from=b /x /y\n", "a:3 b:2"},
		{"FROM", "# a comment\nFROM base\n", "base:2"},
		{"stages are none", "FROM base AS Made\nFROM scratch\nCOPY --from=made / /\nCOPY --from=0 / /\nFROM made\n", "base:1"},
		{"a later stage is one", "FROM scratch\nCOPY --from=later / /\nFROM scratch AS later\n", "later:2"},
		{"mounts", "FROM base\nRUN --mount=from=tools,target=/t --mount=type=cache,target=/c x\n", "base:1 tools:2"},
		{"arguments", "ARG BASE=a\nARG OTHER=${BASE}x\nFROM ${BASE}\nFROM $OTHER\nFROM ctx-$TARGETARCH\n", "chosen:3 chosenx:4 ctx-amd64:5"},
		{"here-document", "FROM scratch\nCOPY <<EOF /f\nx\nEOF\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			uses, err := Contexts(filepath.Join(folder(t, c.dockerfile, nil), "Dockerfile"), map[string]string{"BASE": "chosen", "TARGETARCH": "amd64"})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, u := range uses {
				got = append(got, fmt.Sprintf("%s:%d", u.Name, u.Line))
			}
			if strings.Join(got, " ") != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestRefusedBeforeBuildKit(t *testing.T) {
	for name, c := range map[string]struct{ dockerfile, want string }{
		"syntax line":      {"# syntax=docker/dockerfile:1\nFROM scratch\n", "Dockerfile:1: syntax directive"},
		"no FROM":          {"ARG A\n", "Dockerfile: no FROM instruction"},
		"empty":            {"", "Dockerfile:1: "},
		"unknown":          {"FROM scratch\n\nCOPPY a b\n", "Dockerfile:3: "},
		"before FROM":      {"COPY a b\nFROM scratch\n", "Dockerfile:1: "},
		"unset variable":   {"FROM $NOTHING\n", "Dockerfile:1: FROM $NOTHING: variable NOTHING is set by no ARG above"},
		"ADD of a URL":     {"FROM scratch\nADD https://example.com/f /f\n", "Dockerfile:2: ADD https://example.com/f: nothing is fetched"},
		"ADD of a git URL": {"FROM scratch\nADD git@example.com:a/b.git /f\n", "Dockerfile:2: ADD git@example.com:a/b.git: nothing is fetched"},
		"security":         {"FROM a\nRUN --security=insecure x\n", "Dockerfile:2: dockerfile parse error on line 2: unknown flag: --security"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := folder(t, c.dockerfile, nil)
			_, err := Contexts(filepath.Join(dir, "Dockerfile"), nil)
			if err == nil || !strings.HasPrefix(err.Error(), dir+"/"+c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

func TestWhatIsBesideIsReadOnlyIfNeeded(t *testing.T) {
	for dockerfile, want := range map[string]int{
		"FROM scratch\nCOPY --from=a / /\n":                                   0,
		"FROM scratch\nCOPY <<EOF /f\nx\nEOF\n":                               0,
		"FROM a\nRUN --mount=type=cache,target=/c --mount=from=b,target=/b x": 0,
		"FROM scratch\nCOPY a /\n":                                            2,
		"FROM scratch\n\nADD a /\n":                                           3,
		"FROM a\nRUN --mount=target=/src x":                                   2,
	} {
		d, err := read(filepath.Join(folder(t, dockerfile, nil), "Dockerfile"), nil)
		if err != nil {
			t.Fatal(err)
		}
		if d.local != want {
			t.Errorf("%q: line %d, want %d", dockerfile, d.local, want)
		}
	}
}
