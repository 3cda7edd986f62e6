package main

import (
	"strings"
	"testing"
)

func TestUnknownOptions(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"server", "--offlien"}, "unknown option --offlien: did you mean --offline?"},
		{[]string{"agent", "--tokn=x"}, "unknown option --tokn: did you mean --token?"},
		{[]string{"agent", "--nothing-like-it"}, "unknown option --nothing-like-it: `rke2 agent --help` lists them"},
		{[]string{"server", "--config=/dev/null", "--docker"}, "--docker is not an option here: "},
		{[]string{"server", "--config=/dev/null", "--no-deploy=traefik"}, "--no-deploy is not an option here: it is disable now"},
	} {
		if _, err := run(c.args...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: got %v, want %q in it", c.args, err, c.want)
		}
	}
}

func TestOptionCompletion(t *testing.T) {
	for want, args := range map[string][]string{
		"system\nall\noff\n:4": {"__complete", "server", "--image-verification", ""},
		"cis\netcd\n:4":        {"__complete", "agent", "--profile", ""},
		":16":                  {"__complete", "server", "--data-dir", ""},
	} {
		out, err := run(args...)
		if err != nil || !strings.HasPrefix(out, want) {
			t.Errorf("%q: got %q, %v; want it to begin with %q", args, out, err, want)
		}
	}
}
