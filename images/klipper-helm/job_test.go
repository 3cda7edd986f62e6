package main

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

// controllerEnv is the environment that helm-controller gives an install job.
func controllerEnv() map[string]string {
	return map[string]string{
		"NAME": "web", "VERSION": "", "REPO": "", "HELM_DRIVER": "secret", "CHART_NAMESPACE": "kube-system",
		"CHART": "https://%{KUBERNETES_API}%/static/web.tgz", "HELM_VERSION": "", "TARGET_NAMESPACE": "apps",
		"AUTH_PASS_CREDENTIALS": "false", "INSECURE_SKIP_TLS_VERIFY": "false", "PLAIN_HTTP": "false",
		"FAILURE_POLICY": "reinstall", "KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": "6443",
	}
}

func getenv(m map[string]string) func(string) string { return func(k string) string { return m[k] } }

func TestParseInstall(t *testing.T) {
	env := controllerEnv()
	env["TIMEOUT"], env["FAILURE_POLICY"], env["PLAIN_HTTP"] = "1m30s", "abort", "true"
	env["EXPECTED_RELEASE_REVISION"], env["CONFIG_HASH"], env["SERVER_SIDE"] = "0", "ABC123", "auto"
	j, err := parse([]string{"install", "--namespace", "apps", "--create-namespace", "--take-ownership", "--version", "1.2.3",
		"--set", "a.b=1", "--set-string", `cidr=10.0.0.0/8\,fd00::/8`, "--set", "c=true", "--set-string", "empty="}, getenv(env))
	if err != nil {
		t.Fatal(err)
	}
	want := job{
		verb: verbInstall, name: "web", namespace: "apps", driver: "secret",
		chart: "https://127.0.0.1:6443/static/web.tgz", version: "1.2.3",
		set: []string{"a.b=1", "c=true"}, setString: []string{`cidr=10.0.0.0/8\,fd00::/8`, "empty="},
		createNamespace: true, takeOwnership: true, timeout: 90 * time.Second, policy: abort,
		plainHTTP: true, apiServer: "127.0.0.1:6443", expected: 0, configHash: "ABC123",
	}
	if !reflect.DeepEqual(j, want) {
		t.Errorf("got  %+v\nwant %+v", j, want)
	}
}

func TestParseDefaults(t *testing.T) {
	env := controllerEnv()
	delete(env, "FAILURE_POLICY")
	env["TARGET_NAMESPACE"], env["KUBERNETES_SERVICE_HOST"] = "", "fd00::1"
	j, err := parse([]string{"install"}, getenv(env))
	if err != nil {
		t.Fatal(err)
	}
	if j.namespace != "kube-system" || j.policy != reinstall || j.timeout != 5*time.Minute || j.expected != -1 || j.labels() != nil {
		t.Errorf("%+v", j)
	}
	if j.chart != "https://[fd00::1]:6443/static/web.tgz" {
		t.Errorf("with an API server at an IPv6 address the chart is %s", j.chart)
	}
}

// Each is a sentence that names what is wrong, and the exit code is the one that means
// that trying again will not help.
func TestParseRefuses(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		env  string // NAME=value, or NAME to remove it
		want string
	}{
		{"no arguments", nil, "", "install or delete"},
		{"another command", []string{"rollback"}, "", `"rollback" is neither`},
		{"helm v2", []string{"install"}, "HELM_VERSION=v2", "only Helm v3 charts are supported"},
		{"helm v2, its old name", []string{"install"}, "HELM_VERSION=helm_v2", "only Helm v3 charts are supported"},
		{"helm v2, delete", []string{"delete"}, "HELM_VERSION=v2", "uninstalled, or moved to v3"},
		{"no name", []string{"install"}, "NAME", "NAME is not set"},
		{"flag that is not known", []string{"install", "--atomic"}, "", "-atomic"},
		{"argument too many", []string{"install", "web", "web.tgz"}, "", `"web" was not expected`},
		{"flag without its value", []string{"install", "--set"}, "", "set"},
		{"driver", []string{"install"}, "HELM_DRIVER=memory", `HELM_DRIVER is "memory"`},
		{"policy", []string{"install"}, "FAILURE_POLICY=ignore", "abort, reinstall and retry"},
		{"timeout without unit", []string{"install"}, "TIMEOUT=300", `TIMEOUT is "300"`},
		{"negative timeout", []string{"install"}, "TIMEOUT=-5m", `TIMEOUT is "-5m"`},
		{"server-side apply", []string{"install"}, "SERVER_SIDE=true", "no server-side apply"},
		{"revision", []string{"install"}, "EXPECTED_RELEASE_REVISION=last", "EXPECTED_RELEASE_REVISION"},
		{"hash", []string{"install"}, "CONFIG_HASH=SHA256=x", "cannot label"},
	} {
		t.Run(c.name, func(t *testing.T) {
			env := controllerEnv()
			if k, v, ok := strings.Cut(c.env, "="); ok {
				env[k] = v
			} else {
				delete(env, k)
			}
			_, err := parse(c.args, getenv(env))
			var usage *usageError
			if !errors.As(err, &usage) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want a usageError with %q", err, c.want)
			}
		})
	}
	env := controllerEnv()
	env["TARGET_NAMESPACE"], env["CHART_NAMESPACE"] = "", ""
	if _, err := parse([]string{"delete"}, getenv(env)); err == nil || !strings.Contains(err.Error(), "namespace") && !strings.Contains(err.Error(), "NAMESPACE") {
		t.Errorf("without a namespace: %v", err)
	}
}

// A delete job must not fail for settings that it does not use.
func TestParseDeleteIsLenient(t *testing.T) {
	env := controllerEnv()
	env["TIMEOUT"], env["FAILURE_POLICY"], env["CHART"], env["CONFIG_HASH"] = "soon", "ignore", "", "not a label"
	j, err := parse([]string{"delete"}, getenv(env))
	if err != nil || j.verb != verbDelete || j.timeout != defaultTimeout {
		t.Errorf("%+v, %v", j, err)
	}
}
