package cis

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"sigs.k8s.io/yaml"
)

// host is a root that is prepared for the whole profile, with files changed by the
// caller; "" removes one.
func host(t *testing.T, changes map[string]string) string {
	t.Helper()
	root := t.TempDir()
	files := map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/bash\netcd:x:998:997::/nonexistent:/sbin/nologin\n",
		"etc/group":  "root:x:0:\netcd:x:997:\n",
	}
	for _, p := range parameters {
		files["proc/sys/"+strings.ReplaceAll(p.name, ".", "/")] = p.want + "\n"
	}
	for name, content := range changes {
		files[name] = content
	}
	for name, content := range files {
		if content == "" {
			continue
		}
		write(t, filepath.Join(root, name), content)
	}
	return root
}

func write(t *testing.T, file, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestCheck(t *testing.T) {
	bad := map[string]string{"proc/sys/kernel/panic": "0\n", "proc/sys/vm/panic_on_oom": "", "etc/passwd": "root:x:0:0::/:/bin/sh\n"}
	for _, c := range []struct {
		what, profile string
		server        bool
		changes       map[string]string
		want          []string
	}{
		{"a prepared server", CIS, true, nil, nil},
		{"no profile", "", true, bad, nil},
		{"a server with faults", CIS, true, bad, []string{
			"vm.panic_on_oom is not there, must be 0", "kernel.panic is 0, must be 10", "user etcd is not there, must be there"}},
		{"an agent with the same", CIS, false, bad, []string{"vm.panic_on_oom is not there, must be 0", "kernel.panic is 0, must be 10"}},
		{"profile etcd", Etcd, true, bad, []string{"user etcd is not there, must be there"}},
		{"neither user nor group", Etcd, true, map[string]string{"etc/passwd": "", "etc/group": ""}, []string{"user and group etcd is not there, must be there"}},
	} {
		found, err := Check(host(t, c.changes), c.profile, c.server)
		var got []string
		for _, f := range found {
			got = append(got, f.String())
		}
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, %v; want %q", c.what, got, err, c.want)
		}
	}
}

func TestRefusal(t *testing.T) {
	if err := Refusal(CIS, nil); err != nil {
		t.Errorf("without findings: %v", err)
	}
	found, err := Check(host(t, map[string]string{"proc/sys/kernel/panic": "0\n", "etc/group": "root:x:0:\n"}), CIS, true)
	if err != nil {
		t.Fatal(err)
	}
	const want = `profile cis: this host is not prepared for it:
  kernel.panic is 0, must be 10
  group etcd is not there, must be there
to mend it:
  echo 'kernel.panic = 10' >> /etc/sysctl.d/60-rke2-cis.conf && sysctl -p /etc/sysctl.d/60-rke2-cis.conf
  groupadd --system etcd`
	if err := Refusal(CIS, found); err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
}

func TestAccount(t *testing.T) {
	if user, group, err := Account(host(t, nil)); user != 998 || group != 997 || err != nil {
		t.Errorf("got %d, %d, %v", user, group, err)
	}
	_, _, err := Account(host(t, map[string]string{"etc/group": "root:x:0:\n"}))
	var missing *AccountError
	if !errors.As(err, &missing) || missing.NoUser || !missing.NoGroup {
		t.Errorf("got %v", err)
	}
	for _, id := range []string{"0", "-1", "x"} {
		if _, _, err := Account(host(t, map[string]string{"etc/passwd": "etcd:x:" + id + ":1::/:/bin/sh\n"})); err == nil || !strings.Contains(err.Error(), "above 0") {
			t.Errorf("id %s: got %v", id, err)
		}
	}
}

// TestSysctlFile: what the installer ships sets what is checked for.
func TestSysctlFile(t *testing.T) {
	raw, err := os.ReadFile("../../install/rke2-cis-sysctl.conf")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(raw)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, value, _ := strings.Cut(line, "=")
		p := parameter{strings.TrimSpace(name), strings.TrimSpace(value)}
		if !slices.Contains(parameters, p) {
			t.Errorf("it sets %s to %s, which is not what is checked for", p.name, p.want)
		}
		n++
	}
	if n == 0 {
		t.Error("it sets nothing")
	}
}

func TestDefaultPolicies(t *testing.T) {
	var audit auditv1.Policy
	if err := yaml.UnmarshalStrict([]byte(AuditPolicy), &audit); err != nil {
		t.Error(err)
	}
	if n := len(audit.Rules); n < 2 || audit.Rules[n-1].Level != auditv1.LevelMetadata || len(audit.Rules[n-1].Resources) != 0 {
		t.Errorf("not everything else is recorded: %+v", audit.Rules)
	}
	var admission struct {
		Kind    string
		Plugins []struct {
			Name          string
			Configuration struct {
				APIVersion string
				Defaults   map[string]string
				Exemptions struct{ Namespaces []string }
			}
		}
	}
	if err := yaml.Unmarshal([]byte(PodSecurity), &admission); err != nil {
		t.Fatal(err)
	}
	if len(admission.Plugins) != 1 || admission.Plugins[0].Configuration.Defaults["enforce"] != "restricted" ||
		!slices.Contains(admission.Plugins[0].Configuration.Exemptions.Namespaces, "kube-system") {
		t.Errorf("got %+v", admission)
	}
}

func TestEnsureFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "folder", "policy.yaml")
	for _, content := range []string{"first", "second"} {
		if err := EnsureFile(file, content); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := os.ReadFile(file)
	if err != nil || string(raw) != "first" {
		t.Errorf("the operator's file became %q, %v", raw, err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode: %v, %v", info.Mode(), err)
	}
}

func TestOwn(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root gives files away")
	}
	root, outside := t.TempDir(), filepath.Join(t.TempDir(), "outside")
	write(t, outside, "x")
	write(t, filepath.Join(root, "member", "wal"), "x")
	if err := os.Symlink(outside, filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	if err := Own(998, 997, root); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]struct{ user, mode uint32 }{
		root: {998, 0o700}, filepath.Join(root, "member"): {998, 0o700}, filepath.Join(root, "member", "wal"): {998, 0o600}, outside: {0, 0o644},
	} {
		var got syscall.Stat_t
		if err := syscall.Lstat(path, &got); err != nil || got.Uid != want.user || got.Mode&0o777 != want.mode {
			t.Errorf("%s: user %d, mode %o, %v; want %+v", path, got.Uid, got.Mode&0o777, err, want)
		}
	}
	if err := Own(998, 997, filepath.Join(root, "absent")); err == nil || !strings.Contains(err.Error(), "absent") {
		t.Errorf("got %v", err)
	}
}
