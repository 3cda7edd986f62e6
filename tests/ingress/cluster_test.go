//go:build linux

package ingress

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/rancher/rke2/tests/imagefs"
)

const (
	apiServer = "https://127.0.0.1:6443"
	token     = "throw-away"
	namespace = "web"
)

// cluster is etcd and an API server of the images that are shipped, with no node.
type cluster struct {
	t      *testing.T
	client kubernetes.Interface
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	work := os.Getenv(workVar)
	etcd := binary(t, "hardened-etcd", "etcd")
	apiserver := binary(t, "hardened-kubernetes", "kube-apiserver")
	start(t, "etcd", exec.Command(etcd, "--data-dir="+filepath.Join(work, "etcd"), "--unsafe-no-fsync",
		"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
		"--listen-peer-urls=http://127.0.0.1:2380", "--log-level=warn"))
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	keyFile, tokens := filepath.Join(work, "sa.key"), filepath.Join(work, "tokens.csv")
	for file, data := range map[string][]byte{
		keyFile: pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}),
		tokens:  []byte(token + ",admin,1,system:masters\n"),
	} {
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	api := start(t, "kube-apiserver", exec.Command(apiserver, "--etcd-servers=http://127.0.0.1:2379",
		"--bind-address=127.0.0.1", "--secure-port=6443", "--advertise-address=10.20.0.1", "--cert-dir="+filepath.Join(work, "apiserver"),
		"--service-cluster-ip-range=10.96.0.0/16", "--endpoint-reconciler-type=none",
		"--service-account-issuer="+apiServer, "--service-account-key-file="+keyFile, "--service-account-signing-key-file="+keyFile,
		"--token-auth-file="+tokens, "--authorization-mode=RBAC", "--disable-admission-plugins=ServiceAccount"))
	client, err := kubernetes.NewForConfig(&rest.Config{Host: apiServer, BearerToken: token, TLSClientConfig: rest.TLSClientConfig{Insecure: true}, QPS: 100, Burst: 100})
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, client: client}
	api.until(t, "the API server is ready and has its namespaces", time.Minute, func() error {
		if err := client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(t.Context()).Error(); err != nil {
			return err
		}
		_, err := client.CoreV1().Namespaces().Get(t.Context(), "default", metav1.GetOptions{})
		return err
	})
	return c
}

// binary unpacks one program of a shipped image.
func binary(t *testing.T, image, name string) string {
	t.Helper()
	i, err := imagefs.Find(filepath.Join(dist(t), "oci"), image, runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(os.Getenv(workVar), image)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := ""
	if err := i.Unpack(dir, func(p string) bool {
		if filepath.Base(p) != name {
			return false
		}
		path = filepath.Join(dir, p)
		return true
	}); err != nil {
		t.Fatal(err)
	}
	if path == "" {
		t.Fatalf("image %s has no %s", i.Reference, name)
	}
	return path
}

func (c *cluster) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

func meta(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Name: name, Namespace: namespace} }

// furnish makes what the controller needs to find.
func (c *cluster) furnish(ctx context.Context, certPEM, keyPEM, caPEM []byte) {
	c.t.Helper()
	_, err := c.client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
	c.must(err)
	_, err = c.client.NetworkingV1().IngressClasses().Create(ctx, &networkingv1.IngressClass{
		ObjectMeta: metav1.ObjectMeta{Name: "nginx"}, Spec: networkingv1.IngressClassSpec{Controller: "k8s.io/ingress-nginx"},
	}, metav1.CreateOptions{})
	c.must(err)
	_, err = c.client.CoreV1().Pods(namespace).Create(ctx, &corev1.Pod{
		ObjectMeta: meta("controller"), Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "controller", Image: "x"}}},
	}, metav1.CreateOptions{})
	c.must(err)
	for name, data := range map[string]map[string][]byte{
		"tls":   {corev1.TLSCertKey: certPEM, corev1.TLSPrivateKeyKey: keyPEM},
		"ca":    {"ca.crt": caPEM},
		"users": {"auth": []byte("user:{PLAIN}password\n")},
	} {
		kind := corev1.SecretTypeOpaque
		if name == "tls" {
			kind = corev1.SecretTypeTLS
		}
		_, err = c.client.CoreV1().Secrets(namespace).Create(ctx, &corev1.Secret{ObjectMeta: meta(name), Type: kind, Data: data}, metav1.CreateOptions{})
		c.must(err)
	}
	_, err = c.client.CoreV1().ConfigMaps(namespace).Create(ctx, &corev1.ConfigMap{
		ObjectMeta: meta("controller"), Data: map[string]string{
			"global-rate-limit-memcached-host": "10.20.0.1",
			"global-rate-limit-memcached-port": "11211",
			"worker-processes":                 "2",
			"enable-brotli":                    "true",
			"use-gzip":                         "true",
		},
	}, metav1.CreateOptions{})
	c.must(err)
}

// service makes a service of that name with two endpoints.
func (c *cluster) service(ctx context.Context, name string) {
	c.t.Helper()
	_, err := c.client.CoreV1().Services(namespace).Create(ctx, &corev1.Service{
		ObjectMeta: meta(name), Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 80}}},
	}, metav1.CreateOptions{})
	c.must(err)
	_, err = c.client.DiscoveryV1().EndpointSlices(namespace).Create(ctx, slice(name, "10.20.0.1", "10.20.0.2"), metav1.CreateOptions{})
	c.must(err)
}

func slice(service string, addresses ...string) *discoveryv1.EndpointSlice {
	name, port, protocol, ready := "http", int32(9000), corev1.ProtocolTCP, true
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  meta(service),
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &protocol}},
	}
	s.Labels = map[string]string{discoveryv1.LabelServiceName: service}
	for _, a := range addresses {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{a}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}})
	}
	return s
}

// ingress routes NAME.test/ to a service of its own, as how a backend is chosen is a
// matter of the service. annotations are without their prefix.
func (c *cluster) ingress(ctx context.Context, name string, tls bool, annotations map[string]string) {
	c.t.Helper()
	c.service(ctx, name)
	class, host := "nginx", name+".test"
	i := &networkingv1.Ingress{ObjectMeta: meta(name)}
	i.Annotations = map[string]string{}
	for k, v := range annotations {
		i.Annotations["nginx.ingress.kubernetes.io/"+k] = v
	}
	i.Spec.IngressClassName = &class
	if tls {
		i.Spec.TLS = []networkingv1.IngressTLS{{Hosts: []string{host}, SecretName: "tls"}}
	}
	path, ok := paths[name]
	if !ok {
		path = networkingv1.HTTPIngressPath{Path: "/", PathType: ptr(networkingv1.PathTypePrefix)}
	}
	path.Backend.Service = &networkingv1.IngressServiceBackend{Name: name, Port: networkingv1.ServiceBackendPort{Number: 80}}
	i.Spec.Rules = []networkingv1.IngressRule{{Host: host, IngressRuleValue: networkingv1.IngressRuleValue{
		HTTP: &networkingv1.HTTPIngressRuleValue{Paths: []networkingv1.HTTPIngressPath{path}},
	}}}
	_, err := c.client.NetworkingV1().Ingresses(namespace).Create(ctx, i, metav1.CreateOptions{})
	c.must(err)
}

func kubeconfig() string {
	return fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: %q, insecure-skip-tls-verify: true}}]
users: [{name: u, user: {token: %q}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`, apiServer, token)
}
