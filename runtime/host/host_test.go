package host

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLacksCapability(t *testing.T) {
	for name, c := range map[string]struct {
		status string
		lacks  bool
		fails  string
	}{
		"all":      {status: "Name:\tx\nCapEff:\t000001ffffffffff\n"},
		"none":     {status: "CapEff:\t0000000000000000\n", lacks: true},
		"just it":  {status: "CapEff:\t0000000001000000\n"},
		"all but":  {status: "CapEff:\t000001fffeffffff\n", lacks: true},
		"no line":  {status: "Name:\tx\n", fails: "no CapEff line"},
		"not hex":  {status: "CapEff:\tzz\n", fails: "invalid syntax"},
		"not here": {fails: "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "status")
			if c.status != "" {
				if err := os.WriteFile(file, []byte(c.status), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			lacks, err := lacksCapability(file, capSysResource)
			if c.fails != "" {
				if err == nil || !strings.Contains(err.Error(), c.fails) {
					t.Errorf("got %v, want %q in it", err, c.fails)
				}
				return
			}
			if err != nil || lacks != c.lacks {
				t.Errorf("got %v, %v, want %v", lacks, err, c.lacks)
			}
		})
	}
}

func TestWarnings(t *testing.T) {
	if w := (Facts{}).Warnings(); len(w) != 0 {
		t.Errorf("an ordinary host is warned about: %q", w)
	}
	w := Facts{NoSysResource: true, CgroupV1: true}.Warnings()
	if len(w) != 2 || !strings.Contains(w[0], "CAP_SYS_RESOURCE") || !strings.Contains(w[1], "cgroup v1") {
		t.Errorf("got %q", w)
	}
}

func TestDetect(t *testing.T) {
	if _, err := Detect(); err != nil {
		t.Errorf("this host: %v", err)
	}
}
