package main

import (
	"bytes"
	"flag"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/rancher/rke2/cmd/internal/clidoc"
)

var update = flag.Bool("update", false, "rewrite the generated pages")

func TestMain(m *testing.M) {
	pflag.CommandLine = pflag.NewFlagSet("rke2", pflag.ContinueOnError) // as main does
	m.Run()
}

func TestDocs(t *testing.T) {
	root := newCommand()
	clidoc.Check(t, root, "docs", *update)
}

func run(args ...string) (string, error) {
	root := newCommand()
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&out)
	root.SetArgs(args)
	err := root.Execute()
	return out.String(), err
}

// TestVersion runs a binary without a release, which says so and trusts nothing.
func TestVersion(t *testing.T) {
	for _, args := range [][]string{{"--version"}, {"version"}} {
		out, err := run(args...)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"without a release", "engine k3s v1.", "go go1.", "crypto "} {
			if !strings.Contains(out, want) {
				t.Errorf("%q: no %q in %q", args, want, out)
			}
		}
	}
	if out, err := run("version", "-o", "json"); err != nil || !strings.Contains(out, `"kubernetes"`) {
		t.Errorf("got %q, %v", out, err)
	}
	if _, err := run("version", "-o", "xml"); err == nil {
		t.Error("an unknown format was accepted")
	}
}

func TestServerWithoutARelease(t *testing.T) {
	if _, err := run("server"); err == nil || !strings.Contains(err.Error(), "make airgap") {
		t.Errorf("got %v", err)
	}
}

func TestServerHelp(t *testing.T) {
	out, err := run("server", "--help")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Airgap and trust:", "--offline", "Examples:", "config.yaml"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in the help", want)
		}
	}
	if strings.Contains(out, "--flannel") || strings.Contains(out, "docker sandbox") && strings.Contains(out, "mirrored-pause:3.6") {
		t.Error("the help offers what the product has not")
	}
}
