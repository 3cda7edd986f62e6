package rebuild

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Programs that were built with other settings say so themselves; otherwise the section
// is named. What is no program has no hint.
func TestExplainPrograms(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "go.mod"), "module example.com/tiny\n\ngo 1.25.0\n")
	build := func(name, text string, args ...string) string {
		t.Helper()
		put(t, filepath.Join(dir, "main.go"), "package main\n\nfunc main() { println(\""+text+"\") }\n")
		out := filepath.Join(dir, name)
		cmd := exec.Command("go", append(append([]string{"build", "-trimpath", "-o", out}, args...), ".")...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off", "CGO_ENABLED=0", "GOFIPS140=off")
		if said, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, said)
		}
		return out
	}
	one, two, tagged := build("one", "tiny"), build("two", "Tiny"), build("tagged", "tiny", "-tags=other")
	if hint := explain(one, tagged, 0); !strings.HasPrefix(hint, "Go's build information: ") || !strings.Contains(hint, "-tags=other") {
		t.Errorf("other tags: %s", hint)
	}
	a, errA := os.Open(one)
	b, errB := os.Open(two)
	if errA != nil || errB != nil {
		t.Fatal(errA, errB)
	}
	defer a.Close()
	defer b.Close()
	w, err := firstBytes(a, b)
	if err != nil || w == nil {
		t.Fatalf("%+v, %v", w, err)
	}
	if hint := explain(one, two, w.Offset); !strings.HasPrefix(hint, "in ELF section .") {
		t.Errorf("other text: %s", hint)
	}
	if hint := explain(one, two, 1); hint != "in no ELF section: headers or padding" {
		t.Errorf("the header: %s", hint)
	}
	if hint := explain(filepath.Join(dir, "main.go"), filepath.Join(dir, "go.mod"), 1); hint != "" {
		t.Errorf("no program: %s", hint)
	}
}
