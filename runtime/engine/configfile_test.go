package engine

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rancher/rke2/runtime/config"
)

// refusedConfigs are files that a server does not start with, and what it says.
var refusedConfigs = []struct{ content, says string }{
	{"cni: none\nofline: true\n", `config.yaml:2: unknown option "ofline": did you mean offline?`},
	{"imageVerification: off\n", `config.yaml:1: unknown option "imageVerification": did you mean image-verification?`},
	{"image_verification: off\n", "did you mean image-verification?"},
	{"docker: true\n", "config.yaml:1: docker is not an option here: "},
	{"cni: none\nno-deploy: [x]\n", "config.yaml:2: no-deploy is not an option here: it is disable now"},
	{"flannel-backend: vxlan\n", "flannel-backend is not an option here"},
	{"offline:\n", "config.yaml:1: offline: want true or false"},
	{"offline: true\noffline: false\n", "config.yaml:2: offline is already set in line 1"},
	{"kubelet-arg:\n- max-pods: 100\n", "config.yaml:2: kubelet-arg: an item must be a word: write a=b, not a: b"},
	{"token: {a: b}\n", "config.yaml:1: token: want a value or a list"},
	{"token: [a, b]\n", "config.yaml:1: token: takes one value, not a list"},
	{"- token\n", "config.yaml:1: want KEY: VALUE lines"},
	{"token: a\n---\ntoken: b\n", "a second document"},
}

func TestConfigFiles(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "config.yaml")
	words := vocabulary{
		options: map[string]bool{"label": false, "name": false, "fast": true},
		lists:   map[string]bool{"label": true}, elsewhere: map[string]bool{"mode": false},
	}
	write(t, file, "label: &l [a, b]\nname: first\nmode: 3\nfast: on\n")
	write(t, filepath.Join(dir, "config.yaml.d", "1.yaml"), "label+: c\nname: second # later\n")
	write(t, filepath.Join(dir, "config.yaml.d", "2.YML"), "label+:\n- d\n- # nothing\n")
	write(t, filepath.Join(dir, "config.yaml.d", "3.yaml.bak"), "name: third\n")
	args, warnings, err := readConfig(file, true, words)
	if want := []string{"--label=a", "--label=b", "--label=c", "--label=d", "--name=second", "--fast=true"}; err != nil || !slices.Equal(args, want) {
		t.Errorf("got %q, %v; want %q", args, err, want)
	}
	if want := []string{file + ":3: mode is not an option of this command and not used"}; !slices.Equal(warnings, want) {
		t.Errorf("got %q, want %q", warnings, want)
	}
	write(t, filepath.Join(dir, "config.yaml.d", "4.yaml"), "label: e\n")
	if args, _, err := readConfig(file, true, words); err != nil || slices.Contains(args, "--label=a") || !slices.Contains(args, "--label=e") {
		t.Errorf("a later file's value does not stand in: %q, %v", args, err)
	}
	if args, _, err := readConfig(filepath.Join(dir, "absent"), false, words); err != nil || len(args) != 0 {
		t.Errorf("the default file need not be there: %q, %v", args, err)
	}
	if _, _, err := readConfig("https://example.com/config.yaml", true, words); err == nil || !strings.Contains(err.Error(), "not read from the network") {
		t.Errorf("got %v", err)
	}
}

func TestConfigFileName(t *testing.T) {
	t.Setenv("RKE2_CONFIG_FILE", "/from/env")
	for want, args := range map[string][]string{
		"/from/env": {"--token=x"}, "/a": {"--config=/a"}, "/b": {"-c", "/b"}, "/c": {"--debug", "-c=/c"},
	} {
		if got, named := configFile(args); got != want || !named {
			t.Errorf("%q: got %s, %v", args, got, named)
		}
	}
	t.Setenv("RKE2_CONFIG_FILE", "")
	if got, named := configFile(nil); got != configDefault || named {
		t.Errorf("got %s, %v", got, named)
	}
}

func TestEnvironment(t *testing.T) {
	words := newVocabulary(newOwn().roleFlags(config.Server))
	warnings, err := words.environment([]string{"RKE2_TOKEN=x", "RKE2_NODE_NAMES=x", "RKE2_SOMETHING_ELSE=x", "OFFLINE=1"})
	if err != nil || !slices.Equal(warnings, []string{"unknown variable RKE2_NODE_NAMES: did you mean RKE2_NODE_NAME? (it is not used)"}) {
		t.Errorf("got %q, %v", warnings, err)
	}
	if _, err := words.environment([]string{"RKE2_OFLINE=true"}); err == nil || !strings.Contains(err.Error(), "did you mean RKE2_OFFLINE?") {
		t.Errorf("got %v", err)
	}
}

func TestNearest(t *testing.T) {
	known := []string{"cni", "node-label", "node-taint", "offline", "server", "token"}
	for name, want := range map[string]string{
		"ofline": "offline", "--offlien": "offline", "nodeLabel": "node-label", "NODE_LABEL": "node-label", "node.label": "node-label",
		"node-labels": "node-label", "cn": "", "kni": "", "tokne": "token", "colour": "", "serv": "server",
	} {
		if got := nearest(name, known); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "abc", 3}, {"abc", "acb", 1}, {"abc", "abc", 0}, {"kitten", "sitting", 3}} {
		if got := edits(c.a, c.b); got != c.want {
			t.Errorf("%s, %s: got %d, want %d", c.a, c.b, got, c.want)
		}
	}
}
