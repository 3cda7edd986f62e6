package pod

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func sample() Component {
	return Component{
		Name:         "kube-apiserver",
		Image:        "docker.io/rancher/hardened-kubernetes@sha256:0000",
		Command:      "/bin/kube-apiserver",
		Args:         []string{"--secure-port=6443", "--tls-cert-file=/data/server/tls/a.crt"},
		Env:          []string{"GODEBUG=x=1"},
		Mounts:       []Mount{{Path: "/data/server/tls"}, {Path: "/etc/x.yaml", File: true}},
		Requests:     Resources{"cpu": "250m", "memory": "1Gi"},
		Startup:      &Probe{Scheme: "HTTPS", Host: "127.0.0.1", Port: 6443, Path: "/livez"},
		Liveness:     &Probe{Scheme: "HTTPS", Host: "127.0.0.1", Port: 6443, Path: "/livez"},
		InputsDigest: "abc",
	}
}

func TestManifestGolden(t *testing.T) {
	got, err := Manifest(sample())
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "kube-apiserver.yaml")
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("the manifest changed; run with -update if that is meant\n%s", got)
	}
}

func TestManifestIsPure(t *testing.T) {
	first, _ := Manifest(sample())
	for range 50 {
		again, _ := Manifest(sample())
		if !bytes.Equal(first, again) {
			t.Fatal("the same component gave other bytes")
		}
	}
}

func TestManifestRefuses(t *testing.T) {
	for name, change := range map[string]func(*Component){
		"no image":      func(c *Component) { c.Image = "" },
		"no command":    func(c *Component) { c.Command = "" },
		"bad quantity":  func(c *Component) { c.Requests = Resources{"cpu": "lots"} },
		"bad limit":     func(c *Component) { c.Limits = Resources{"memory": "2 cups"} },
		"bad variables": func(c *Component) { c.Env = []string{"NOEQUALS"} },
	} {
		t.Run(name, func(t *testing.T) {
			c := sample()
			change(&c)
			if _, err := Manifest(c); err == nil {
				t.Error("no error")
			}
		})
	}
}

func TestMountsFor(t *testing.T) {
	exists := map[string]bool{"/etc/audit.yaml": false, "/var/log/audit": true, "/data/server/tls/a.crt": false}
	stat := func(p string) (bool, bool) { dir, ok := exists[p]; return ok, dir }
	got := MountsFor([]string{
		"--tls-cert-file=/data/server/tls/a.crt",
		"--audit-policy-file=/etc/audit.yaml",
		"--audit-log-path=/var/log/audit",
		"--absent=/nowhere",
		"--not-a-path=a/b",
		"--flag",
	}, []Mount{{Path: "/data/server/tls"}}, stat)
	want := []Mount{{Path: "/data/server/tls"}, {Path: "/etc/audit.yaml", File: true}, {Path: "/var/log/audit"}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestParseMount(t *testing.T) {
	for in, want := range map[string]Mount{
		"/a:/b":    {Path: "/a", Target: "/b", Writable: true},
		"/a:/b:ro": {Path: "/a", Target: "/b"},
	} {
		got, err := ParseMount(in)
		if err != nil || got != want {
			t.Errorf("%s: got %+v, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "/a", "a:/b", "/a:b", "/a:/b:rx", "/a:/b:ro:z"} {
		if _, err := ParseMount(in); err == nil {
			t.Errorf("%q: no error", in)
		}
	}
}
