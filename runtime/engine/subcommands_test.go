package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func TestSubcommandFlags(t *testing.T) {
	for path, want := range map[string][]string{
		"etcd-snapshot save":        {"name", "dir", "etcd-snapshot-dir", "etcd-server", "snapshot-compress", "data-dir", "config"},
		"etcd-snapshot prune":       {"snapshot-retention", "etcd-snapshot-retention"},
		"certificate check":         {"output", "service", "data-dir", "config"},
		"certificate rotate-ca":     {"path", "force", "server", "config"},
		"secrets-encrypt reencrypt": {"force", "skip", "token", "server"},
		"token rotate":              {"new-token", "token", "server"},
		"token create":              {"ttl", "groups", "usages", "kubeconfig"},
	} {
		flags, err := SubcommandFlags(path)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		var names []string
		for _, f := range flags {
			names = append(names, f.Name)
			if strings.ContainsAny(f.Name, ", ") {
				t.Errorf("%s has an option %q", path, f.Name)
			}
			if strings.Contains(f.Default, ":6443") {
				t.Errorf("%s --%s goes to %s, not to the supervisor", path, f.Name, f.Default)
			}
		}
		slices.Sort(names)
		if once := slices.Compact(slices.Clone(names)); len(once) != len(names) {
			t.Errorf("%s has an option twice: %q", path, names)
		}
		for _, w := range want {
			if !slices.Contains(names, w) {
				t.Errorf("%s has no --%s: %q", path, w, names)
			}
		}
	}
	if _, err := SubcommandFlags("etcd-snapshot eat"); err == nil {
		t.Error("a command that is none was found")
	}
}

func TestSubcommandReadsTheNodesConfiguration(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.yaml")
	write(t, file, "data-dir: /srv/rke2\ntoken: secret\nserver: https://198.51.100.10:9345\netcd-snapshot-dir: /snapshots\netcd-s3: true\n")
	write(t, file+".d/50-more.yaml", "etcd-s3-bucket: backups\n")
	c, err := subcommand("etcd-snapshot save")
	if err != nil {
		t.Fatal(err)
	}
	got, err := withConfigFile(c.Flags, []string{"--config=" + file, "--name=mine", "--etcd-s3-bucket=other"})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	want := []string{"--config=" + file, "--data-dir=/srv/rke2", "--etcd-s3-bucket=other", "--etcd-s3=true", "--etcd-snapshot-dir=/snapshots", "--name=mine"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestTokenIDs(t *testing.T) {
	got := tokenIDs([]string{"--kubeconfig=a.b", "abcdef", "abcdef.0123456789abcdef", "K10" + strings.Repeat("0", 64) + "::abcdef.0123456789abcdef"})
	if want := []string{"--kubeconfig=a.b", "abcdef", "abcdef", "abcdef"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestExplain(t *testing.T) {
	for want, err := range map[string]error{
		"give its --data-dir":   fmt.Errorf("x: %w", &fs.PathError{Op: "open", Path: "/d/server/token", Err: fs.ErrNotExist}),
		"--kubeconfig":          &fs.PathError{Op: "stat", Path: "/etc/rancher/rke2/rke2.yaml", Err: fs.ErrNotExist},
		"as root":               &fs.PathError{Op: "open", Path: "/d/server/token", Err: fs.ErrPermission},
		"is rke2-server runnin": fmt.Errorf("x: %w", &url.Error{Op: "Get", URL: "https://127.0.0.1:9345", Err: syscall.ECONNREFUSED}),
		"else":                  errors.New("something else"),
	} {
		if got := explain(err, "/d"); !strings.Contains(got.Error(), want) || !errors.Is(got, err) {
			t.Errorf("%v: %v does not say %q", err, got, want)
		}
	}
	for want, args := range map[string][]string{"/server/token": {"--new-token=x"}, "form of a bootstrap": {"--token=y", "--new-token=abcdef.0123456789abcdef"}} {
		if err := RunSubcommand("token rotate", append(args, "--data-dir="+t.TempDir())); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("token rotate %q: %v, want %q", args, err, want)
		}
	}
	if err := RunSubcommand("certificate rotate-ca", []string{"--path=/no/such"}); err == nil || !strings.Contains(err.Error(), "/server/tls") {
		t.Errorf("rotate-ca without a folder: %v", err)
	}
}
