package main

import (
	"flag"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"
)

// defaultTimeout is that of Helm's command line.
const defaultTimeout = 5 * time.Minute

type verb string

const (
	verbInstall verb = "install" // and upgrade: what is needed follows from the release
	verbDelete  verb = "delete"
)

// policy is what is done about a release that failed.
type policy string

const (
	abort     policy = "abort"     // nothing: somebody is to look at it
	reinstall policy = "reinstall" // uninstall it, install anew
	retry     policy = "retry"     // upgrade it
)

// job is what helm-controller asked for.
type job struct {
	verb      verb
	name      string // of the release: the HelmChart's
	namespace string // of the release
	driver    string // where Helm keeps releases

	chart, repo, version string
	stableRepo           string // repository of charts named stable/…
	set, setString       []string
	createNamespace      bool
	takeOwnership        bool
	timeout              time.Duration // of each of Helm's operations
	policy               policy

	passCredentials bool
	insecureTLS     bool
	plainHTTP       bool
	apiServer       string // host:port of the Kubernetes API, "" outside of a pod

	expected   int    // last revision the controller saw; -1: not told
	configHash string // of the HelmChart; "" from helm-controller v0.16
}

// files are the paths that a job's pod has mounted. Each may be missing.
type files struct {
	config      string // *.yaml are values, in lexical order; ca-file.pem
	chart       string // <name>.tgz.base64
	auth        string // username and password, tls.crt and tls.key
	caFiles     string // certificates, any name
	docker      string // config.json of registries' credentials
	clusterCA   string // of the Kubernetes API
	termination string
}

func podFiles(home string) files {
	return files{
		config:      "/config",
		chart:       "/chart",
		auth:        "/auth",
		caFiles:     "/ca-files",
		docker:      filepath.Join(home, ".docker", "config.json"),
		clusterCA:   "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt",
		termination: "/dev/termination-log",
	}
}

// usageError is about a job that no second try will make right.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error {
	return &usageError{fmt.Sprintf(format, args...)}
}

// parse reads a job from arguments and environment. Of a delete job only what finds the
// release has to be right: it must not fail for a setting that it does not use.
func parse(args []string, env func(string) string) (job, error) {
	j := job{
		name:            env("NAME"),
		namespace:       first(env("TARGET_NAMESPACE"), env("CHART_NAMESPACE")),
		driver:          env("HELM_DRIVER"),
		chart:           env("CHART"),
		repo:            env("REPO"),
		version:         env("VERSION"),
		stableRepo:      env("STABLE_REPO_URL"),
		timeout:         defaultTimeout,
		passCredentials: env("AUTH_PASS_CREDENTIALS") == "true",
		insecureTLS:     env("INSECURE_SKIP_TLS_VERIFY") == "true",
		plainHTTP:       env("PLAIN_HTTP") == "true",
		expected:        -1,
		configHash:      env("CONFIG_HASH"),
	}
	if host := env("KUBERNETES_SERVICE_HOST"); host != "" {
		j.apiServer = net.JoinHostPort(host, first(env("KUBERNETES_SERVICE_PORT"), "443"))
	}
	if len(args) == 0 {
		return j, usagef("no command: the first argument is install or delete")
	}
	j.verb = verb(args[0])
	if v := env("HELM_VERSION"); v != "" && v != "v3" {
		return j, usagef("HELM_VERSION is %q, and only Helm v3 charts are supported: remove spec.helmVersion of HelmChart %s; a release that Helm v2 installed has to be uninstalled, or moved to v3, with the tools of its time", v, j.name)
	}
	if j.name == "" {
		return j, usagef("NAME is not set: there is no release to work on")
	}
	if j.namespace == "" {
		return j, usagef("neither TARGET_NAMESPACE nor CHART_NAMESPACE is set: where release %s is cannot be known", j.name)
	}
	switch j.driver {
	case "", "secret", "secrets", "configmap", "configmaps":
	default:
		return j, usagef("HELM_DRIVER is %q: releases are kept as secret or configmap", j.driver)
	}
	switch j.verb {
	case verbDelete:
		if t, err := time.ParseDuration(env("TIMEOUT")); err == nil && t > 0 {
			j.timeout = t
		}
		return j, nil
	case verbInstall:
		return j, j.parseInstall(args[1:], env)
	}
	return j, usagef("command %q is neither install nor delete", args[0])
}

func (j *job) parseInstall(args []string, env func(string) string) error {
	fs := flag.NewFlagSet("install", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.StringVar(&j.namespace, "namespace", j.namespace, "")
	fs.BoolVar(&j.createNamespace, "create-namespace", false, "")
	fs.BoolVar(&j.takeOwnership, "take-ownership", false, "")
	fs.StringVar(&j.version, "version", j.version, "")
	fs.Func("set", "", func(v string) error { j.set = append(j.set, v); return nil })
	fs.Func("set-string", "", func(v string) error { j.setString = append(j.setString, v); return nil })
	if err := fs.Parse(args); err != nil {
		return usagef("arguments of install: %v", err)
	}
	if fs.NArg() > 0 {
		return usagef("arguments of install: %q was not expected", fs.Arg(0))
	}
	if err := j.parsePolicy(env); err != nil {
		return err
	}
	if v := env("TIMEOUT"); v != "" {
		t, err := time.ParseDuration(v)
		if err != nil || t <= 0 {
			return usagef("TIMEOUT is %q, which is not a length of time such as 5m or 90s: see spec.timeout of HelmChart %s", v, j.name)
		}
		j.timeout = t
	}
	if v := env("EXPECTED_RELEASE_REVISION"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 0 {
			return usagef("EXPECTED_RELEASE_REVISION is %q, which is not the number of a revision", v)
		}
		j.expected = n
	}
	if why := validation.IsValidLabelValue(j.configHash); len(why) > 0 {
		return usagef("CONFIG_HASH %q cannot label a release: %s", j.configHash, strings.Join(why, "; "))
	}
	j.chart = strings.ReplaceAll(j.chart, "%{KUBERNETES_API}%", j.apiServer)
	return nil
}

func (j *job) parsePolicy(env func(string) string) error {
	switch p := policy(first(env("FAILURE_POLICY"), string(reinstall))); p {
	case abort, reinstall, retry:
		j.policy = p
	default:
		return usagef("FAILURE_POLICY is %q: known are abort, reinstall and retry", p)
	}
	switch v := env("SERVER_SIDE"); v {
	case "", "auto", "false": // auto follows the release, and Helm v3 made none that way
	default:
		return usagef("SERVER_SIDE is %q: Helm v3 has no server-side apply; remove spec.serverSide of HelmChart %s", v, j.name)
	}
	return nil
}

// labels mark a release with what it was made from, which helm-controller v0.17 looks
// for to know that a job did its work.
func (j *job) labels() map[string]string {
	if j.configHash == "" {
		return nil
	}
	return map[string]string{configHashLabel: j.configHash}
}

const configHashLabel = "helmcharts.helm.cattle.io/configHash"

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}
