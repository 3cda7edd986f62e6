package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/release"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// program finds a program that `make airgap` compiled.
func program(t *testing.T, name string) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dist := first(os.Getenv("RKE2_DIST"), filepath.Join(root, "dist"))
	cmd := exec.Command(filepath.Join(dist, "rke2-build"), "list", "-o", "json", "--images", filepath.Join(root, "images"), "--dist", dist)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("asking rke2-build for %s: %v\n%srun `make airgap` first, or set RKE2_DIST to the folder that has its products", name, err, &said)
	}
	var components []struct {
		Artifacts []struct{ Name, Path string }
	}
	if err := json.Unmarshal(out, &components); err != nil {
		t.Fatal(err)
	}
	for _, c := range components {
		for _, a := range c.Artifacts {
			if a.Name == name {
				return a.Path
			}
		}
	}
	t.Fatalf("%s is not compiled: run `make airgap` first", name)
	return ""
}

// start runs a program for the time of the test and gives its log if the test fails.
func start(t *testing.T, path string, args ...string) {
	t.Helper()
	log := new(bytes.Buffer)
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			tail := log.Bytes()
			t.Logf("%s said at the end:\n%s", filepath.Base(path), tail[max(0, len(tail)-2000):])
		}
	})
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}

// apiServer starts etcd and kube-apiserver, as the product has them, on loopback, and
// points $KUBECONFIG there.
//
// Who asks it for OpenAPI documents is in the file that is returned.
func apiServer(t *testing.T) (_ *kubernetes.Clientset, openAPI string) {
	t.Helper()
	dir := t.TempDir()
	openAPI = filepath.Join(dir, "audit.log")
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	client, peer, secure := freePort(t), freePort(t), freePort(t)
	write(t, dir, map[string]string{
		"sa.key":     string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})),
		"audit.yaml": "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata, nonResourceURLs: [/openapi*]}, {level: None}]\n",
		"tokens.csv": "throw-away,admin,admin,system:masters\n",
		"kubeconfig": fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: test
contexts: [{name: test, context: {cluster: test, user: admin}}]
clusters: [{name: test, cluster: {server: "https://127.0.0.1:%s", certificate-authority: %q}}]
users: [{name: admin, user: {token: throw-away}}]
`, secure, filepath.Join(dir, "certs", "apiserver.crt")),
	})
	start(t, program(t, "etcd"), "--data-dir="+filepath.Join(dir, "etcd"), "--unsafe-no-fsync", "--log-level=warn",
		"--listen-client-urls=http://127.0.0.1:"+client, "--advertise-client-urls=http://127.0.0.1:"+client,
		"--listen-peer-urls=http://127.0.0.1:"+peer, "--initial-advertise-peer-urls=http://127.0.0.1:"+peer, "--initial-cluster=default=http://127.0.0.1:"+peer)
	start(t, program(t, "kube-apiserver"), "--etcd-servers=http://127.0.0.1:"+client, "--bind-address=127.0.0.1", "--secure-port="+secure,
		"--cert-dir="+filepath.Join(dir, "certs"), "--token-auth-file="+filepath.Join(dir, "tokens.csv"), "--authorization-mode=RBAC",
		"--service-account-issuer=https://test", "--service-account-key-file="+filepath.Join(dir, "sa.key"),
		"--service-account-signing-key-file="+filepath.Join(dir, "sa.key"), "--service-cluster-ip-range=10.43.0.0/24",
		"--disable-admission-plugins=ServiceAccount", "--audit-policy-file="+filepath.Join(dir, "audit.yaml"), "--audit-log-path="+openAPI)
	t.Setenv("KUBECONFIG", filepath.Join(dir, "kubeconfig"))
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(200 * time.Millisecond) {
		var answer int
		err := os.ErrNotExist
		if conf, configErr := clientcmd.BuildConfigFromFlags("", filepath.Join(dir, "kubeconfig")); configErr == nil {
			var c *kubernetes.Clientset
			if c, err = kubernetes.NewForConfig(conf); err == nil {
				if err = c.Discovery().RESTClient().Get().AbsPath("/readyz").Do(context.Background()).StatusCode(&answer).Error(); answer == http.StatusOK {
					return c, openAPI
				}
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("the API server is not ready: %v (%d)", err, answer)
		}
	}
}

// pod runs jobs for one HelmChart, each with files of its own.
type pod struct {
	t     *testing.T
	env   map[string]string
	words string // the last words of the last job
	log   string
}

func (p *pod) run(ch *chart.Chart, values string, args ...string) int {
	p.t.Helper()
	dir := write(p.t, p.t.TempDir(), map[string]string{"termination-log": "", "config/values-0-000-HelmChart-ValuesContent.yaml": values})
	if ch != nil {
		write(p.t, dir, map[string]string{"chart/web.tgz.base64": string(encode(p.t, packed(p.t, ch)))})
	}
	f := files{config: filepath.Join(dir, "config"), chart: filepath.Join(dir, "chart"), termination: filepath.Join(dir, "termination-log")}
	var out bytes.Buffer
	code := run(p.t.Context(), args, getenv(p.env), f, &out)
	words, err := os.ReadFile(f.termination)
	if err != nil {
		p.t.Fatal(err)
	}
	p.words, p.log = string(words), out.String()
	p.t.Logf("job %s: exit %d\n%s", strings.Join(args, " "), code, out.String())
	return code
}

// wants runs a job that has to end like that.
func (p *pod) wants(code int, words string, ch *chart.Chart, values string, args ...string) {
	p.t.Helper()
	if got := p.run(ch, values, args...); got != code || !strings.Contains(p.words, words) {
		p.t.Fatalf("exit %d, last words %q; want %d, %q", got, p.words, code, words)
	}
}

// greeter is a chart with a definition and an object of it, which works only if what
// the API can do is asked again in between, and with a ConfigMap that cannot be changed
// when `frozen` is set.
func greeter() *chart.Chart {
	ch := webChart()
	ch.Files = []*chart.File{{Name: "crds/greeting.yaml", Data: []byte(`apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: greetings.test.example.com}
spec:
  group: test.example.com
  scope: Namespaced
  names: {plural: greetings, singular: greeting, kind: Greeting}
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]
`)}}
	ch.Templates = []*chart.File{
		{Name: "templates/cm.yaml", Data: []byte(`apiVersion: v1
kind: ConfigMap
metadata: {name: web}
immutable: {{ .Values.frozen | default false }}
data:
  greeting: {{ .Values.greeting }}
  namespaces: {{ lookup "v1" "Namespace" "" "" | toString | contains "kube-system" | quote }}
`)},
		{Name: "templates/greeting.yaml", Data: []byte("apiVersion: test.example.com/v1\nkind: Greeting\nmetadata: {name: web}\nspec: {text: hello}\n")},
	}
	return ch
}

// The whole life of a release, against the API server that the product ships.
func TestWithAPIServer(t *testing.T) {
	if testing.Short() {
		t.Skip("starts an API server")
	}
	client, openAPI := apiServer(t)
	env := controllerEnv()
	env["KUBERNETES_SERVICE_HOST"], env["CONFIG_HASH"] = "", "ABC1"
	p := &pod{t: t, env: env}
	ctx := t.Context()
	secrets, maps := client.CoreV1().Secrets("apps"), client.CoreV1().ConfigMaps("apps")
	greeting := func(want string) {
		t.Helper()
		cm, err := maps.Get(ctx, "web", metav1.GetOptions{})
		if err != nil || cm.Data["greeting"] != want || cm.Data["namespaces"] != "true" {
			t.Fatalf("%v, data %v, want greeting %s", err, cm.Data, want)
		}
		if len(cm.ManagedFields) == 0 || cm.ManagedFields[0].Manager != "helm" {
			t.Errorf("fields are managed by %+v", cm.ManagedFields)
		}
	}
	status := func(revision int) string {
		t.Helper()
		s, err := secrets.Get(ctx, fmt.Sprintf("sh.helm.release.v1.web.v%d", revision), metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		return s.Labels["status"] + " " + s.Labels[configHashLabel]
	}
	install := []string{"install", "--namespace", "apps", "--create-namespace"}

	p.wants(1, "not found", greeter(), "greeting: hello", "install", "--namespace", "apps")
	p.wants(0, "deployed at revision 1", greeter(), "greeting: hello", install...)
	greeting("hello")
	p.env["CONFIG_HASH"] = "ABC2"
	p.wants(0, "deployed at revision 2", greeter(), "greeting: hello", append(install, "--set", "frozen=true", "--set-string", "greeting=hey")...)
	greeting("hey")
	if got := status(1) + ", " + status(2); got != "superseded ABC1, deployed ABC2" {
		t.Errorf("revisions: %s", got)
	}

	// The API refuses to change what is frozen: each time the upgrade is rolled back, and
	// soon it is not tried again.
	p.env["FAILURE_POLICY"] = "abort"
	p.wants(1, "immutable` is set]; rolled back to revision 2, which is deployed again as revision 4", greeter(), "greeting: bye", install...)
	greeting("hey")
	p.wants(1, "rolled back to revision 4, which is deployed again as revision 6", greeter(), "greeting: bye", install...)
	p.wants(1, "failurePolicy is abort", greeter(), "greeting: bye", install...)
	greeting("hey")
	if got := status(5) + ", " + status(6); got != "failed ABC2, deployed ABC2" {
		t.Errorf("revisions: %s", got)
	}
	p.env["FAILURE_POLICY"] = "reinstall"
	p.wants(0, "deployed at revision 1", greeter(), "greeting: bye", install...)
	greeting("bye")

	// A job that was killed in the middle of an upgrade.
	r := &report{out: new(bytes.Buffer)}
	cfg, err := configuration(job{name: "web", namespace: "apps"}, r)
	if err != nil {
		t.Fatal(err)
	}
	rel, err := cfg.Releases.Last("web")
	if err != nil {
		t.Fatal(err)
	}
	// It was installed when Kubernetes still had what it has no more.
	rel.Manifest += "---\napiVersion: policy/v1beta1\nkind: PodSecurityPolicy\nmetadata:\n  name: web\n"
	if err := cfg.Releases.Update(rel); err != nil {
		t.Fatal(err)
	}
	rel.Version++
	rel.SetStatus(release.StatusPendingUpgrade, "Preparing upgrade")
	if err := cfg.Releases.Create(rel); err != nil {
		t.Fatal(err)
	}
	p.env["FAILURE_POLICY"] = "retry"
	p.wants(0, "deployed at revision 3", greeter(), "greeting: again", install...)
	if !strings.Contains(p.log, "PodSecurityPolicy web of policy/v1beta1: Kubernetes has no such kind any more: forgotten") {
		t.Errorf("log:\n%s", p.log)
	}
	greeting("again")

	p.wants(0, "is uninstalled", nil, "", "delete")
	if _, err := maps.Get(ctx, "web", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("after delete: %v", err)
	}
	if left, err := secrets.List(ctx, metav1.ListOptions{}); err != nil || len(left.Items) > 0 {
		t.Errorf("after delete %d secrets are left, %v", len(left.Items), err)
	}
	p.wants(0, "nothing to delete", nil, "", "delete")

	// What somebody else made is taken over only when that is asked for.
	if _, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "web"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	p.wants(1, "invalid ownership metadata", greeter(), "greeting: mine", install...)
	p.wants(0, "deployed at revision 1", greeter(), "greeting: mine", append(install, "--take-ownership")...)
	if cm, err := maps.Get(ctx, "web", metav1.GetOptions{}); err != nil || cm.Data["greeting"] != "mine" {
		t.Errorf("%v, %v", err, cm.Data)
	}

	// Each of its OpenAPI documents takes the API server long to make.
	if _, err := client.Discovery().RESTClient().Get().AbsPath("/openapi/v3").DoRaw(ctx); err != nil {
		t.Fatal(err)
	}
	asked, err := os.ReadFile(openAPI)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(asked), `"userAgent":"`+userName+`"`) || !strings.Contains(string(asked), "/openapi/v3") {
		t.Errorf("documents that were asked for:\n%s", asked)
	}
}
