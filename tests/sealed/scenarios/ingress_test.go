//go:build linux

package scenarios

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rancher/rke2/tests/sealed"
	"github.com/rancher/rke2/tests/sealed/node"
)

// shopSpace has two applications behind an ingress: one by TLS, both by path.
const shopSpace = "shop"

// The hosts that the ingress knows.
const (
	tlsHost   = "shop.example"
	plainHost = "plain.example"
	lateHost  = "late.example"
)

// shop is all that a user applies for it, with a certificate that the test's clients trust.
func (c *charted) shop() string {
	var m strings.Builder
	for _, app := range []string{"front", "back"} {
		fmt.Fprintf(&m, `---
apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s, namespace: %[2]s}
spec:
  replicas: 1
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec:
      containers:
%[3]s---
apiVersion: v1
kind: Service
metadata: {name: %[1]s, namespace: %[2]s}
spec: {selector: {app: %[1]s}, ports: [{port: 80, targetPort: 8080}]}
`, app, shopSpace, indent(c.echoContainer(5)))
	}
	certificate, key := c.certify(tlsHost)
	fmt.Fprintf(&m, "---\napiVersion: v1\nkind: Secret\ntype: kubernetes.io/tls\nmetadata: {name: shop-tls, namespace: %s}\ndata: {tls.crt: %s, tls.key: %s}\n",
		shopSpace, base64.StdEncoding.EncodeToString(certificate), base64.StdEncoding.EncodeToString(key))
	m.WriteString(ingress("shop", tlsHost, ", tls: [{hosts: ["+tlsHost+"], secretName: shop-tls}]"))
	m.WriteString(ingress("plain", plainHost, ""))
	return m.String()
}

func indent(block string) string {
	return "    " + strings.ReplaceAll(strings.TrimRight(block, "\n"), "\n", "\n    ") + "\n"
}

// ingress serves both applications on a host, of the default class.
func ingress(name, host, more string) string {
	return fmt.Sprintf(`---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: %s, namespace: %s}
spec: {rules: [{host: %s, http: {paths: [
  {path: /, pathType: Prefix, backend: {service: {name: front, port: {number: 80}}}},
  {path: /back, pathType: Prefix, backend: {service: {name: back, port: {number: 80}}}}]}}]%s}
`, name, shopSpace, host, more)
}

// certify makes a certificate for a host, and has the test's clients trust it alone.
func (c *charted) certify(host string) (certificate, key []byte) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err) // no randomness
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		panic(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		panic(err)
	}
	certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	c.roots = x509.NewCertPool()
	c.roots.AppendCertsFromPEM(certificate)
	return certificate, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
}

// page is what a browser is shown.
type page struct {
	status   int
	location string     // where it is sent
	answer   echoAnswer // of a page with status 200
}

// browse asks the ingress at one node's address, from another's host, for a URL of a host
// that no name server knows. It follows no redirect.
func (c *charted) browse(ctx context.Context, from *node.Node, address, url string) (page, error) {
	client := http.Client{
		Transport: &http.Transport{
			DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: c.roots, MinVersion: tls.VersionTLS12},
			DialContext: func(ctx context.Context, network, asked string) (net.Conn, error) {
				_, port, err := net.SplitHostPort(asked)
				if err != nil {
					return nil, err
				}
				return from.DialContext(ctx, network, net.JoinHostPort(address, port))
			},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout:       5 * time.Second,
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return page{}, err
	}
	response, err := client.Do(r)
	if err != nil {
		return page{}, err
	}
	defer response.Body.Close()
	shown := page{status: response.StatusCode, location: response.Header.Get("Location")}
	body, err := io.ReadAll(response.Body)
	if err == nil && shown.status == http.StatusOK {
		err = json.Unmarshal(body, &shown.answer)
	}
	return shown, err
}

// ingressAnswers asks the ingress of each node from each host: by host, path and TLS.
func (c *charted) ingressAnswers(ctx context.Context) (string, error) {
	var text strings.Builder
	var wrong []error
	for _, from := range c.nodes() {
		for _, address := range []string{serverAddress, agentAddress} {
			fmt.Fprintf(&text, "from the host of %s, at %s:\n", from.Name(), address)
			for _, q := range []struct {
				url, app string
				status   int
			}{
				{"https://" + tlsHost + "/", "front", http.StatusOK},
				{"https://" + tlsHost + "/back/office", "back", http.StatusOK},
				{"http://" + plainHost + "/", "front", http.StatusOK},
				{"http://" + plainHost + "/back", "back", http.StatusOK},
				{"http://" + tlsHost + "/", "", c.redirect},
				{"http://nobody.example/", "", http.StatusNotFound},
			} {
				got, err := c.browse(ctx, from, address, q.url)
				if err != nil {
					return "", err
				}
				fmt.Fprintf(&text, "  %-34s %d %s %s%s\n", q.url, got.status, got.answer.App, got.answer.Pod, got.location)
				proto, _, _ := strings.Cut(q.url, ":")
				if got.status != q.status || got.answer.App != q.app || q.app != "" && got.answer.ForwardedProto != proto {
					wrong = append(wrong, fmt.Errorf("%s at %s: %+v; want %d from %q", q.url, address, got, q.status, q.app))
				}
			}
		}
	}
	return text.String(), errors.Join(wrong...)
}

// awaitIngress waits for all of its answers to be right, and returns them.
func (c *charted) awaitIngress(ctx context.Context, t *testing.T) string {
	t.Helper()
	var text string
	err := sealed.Wait(ctx, "the ingress's answers", stepLimit, func(ctx context.Context) (err error) {
		text, err = c.ingressAnswers(ctx)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// servesIngress: the right backend answers, and while it grows and shrinks and the
// ingress's configuration changes twice, by an Ingress and by its chart's values, nobody
// who asks is turned away.
func servesIngress(ctx context.Context, t *testing.T, c *charted) {
	c.tell(t, "ingress:", c.awaitIngress(ctx, t))
	stop := c.loadIngress(ctx)
	stopped := false
	defer func() {
		if !stopped {
			_, _ = stop()
		}
	}()
	c.scale(ctx, t, 3)
	apply(ctx, t, &scenario{Node: c.server}, ingress("late", lateHost, ""))
	c.awaitAnswer(ctx, t, "http://"+lateHost+"/", "a new host", http.StatusOK)
	apply(ctx, t, &scenario{Node: c.server}, `apiVersion: helm.cattle.io/v1
kind: HelmChartConfig
metadata: {name: rke2-ingress-nginx, namespace: kube-system}
spec:
  valuesContent: |
    controller:
      config:
        http-redirect-code: "307"
`)
	c.awaitAnswer(ctx, t, "http://"+tlsHost+"/", "a setting of the chart", http.StatusTemporaryRedirect)
	c.redirect = http.StatusTemporaryRedirect
	c.scale(ctx, t, 2)
	stopped = true
	totals, err := stop()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range totals {
		text := fmt.Sprintf("%d requests, %d failed, the slowest %.2f s, answers by pod: %v", l.Requests, l.Failed, l.SlowestSeconds, l.By)
		c.tell(t, "ingress under load, while its backend grew from 1 to 3 and shrank to 2 and nginx was configured anew twice:", text)
		if l.Requests < 100 || l.Failed > 0 || len(l.By) < 3 {
			t.Errorf("%s; errors: %q", text, l.Errors)
		}
		report(t, "charts, requests to the ingress while it is configured anew, failed", fmt.Sprintf("%d, %d", l.Requests, l.Failed))
	}
}

// loadIngress asks the ingress of each node from a pod of the other, until the function
// that it returns is called.
func (c *charted) loadIngress(ctx context.Context) func() ([]echoLoad, error) {
	totals := make([]echoLoad, 2)
	errs := make([]error, 2)
	var all sync.WaitGroup
	var ends []io.Closer
	for i, side := range []struct{ pod, address string }{{left, agentAddress}, {right, serverAddress}} {
		r, w := io.Pipe()
		ends = append(ends, w)
		all.Go(func() {
			got, err := echoFed[echoLoad](ctx, c, r, netSpace, side.pod, "load", "-until-eof", "-for", "3m", "-workers", "2", "-host", plainHost, "http://"+side.address+"/")
			if errs[i] = err; err == nil {
				totals[i] = got[0]
			}
		})
	}
	return func() ([]echoLoad, error) {
		for _, w := range ends {
			_ = w.Close()
		}
		all.Wait()
		return totals, errors.Join(errs...)
	}
}

// scale gives the front so many pods, and waits until the ingresses of both nodes have
// answers from all of them, and from none that goes.
func (c *charted) scale(ctx context.Context, t *testing.T, replicas int) {
	t.Helper()
	if out, err := c.server.Kubectl(ctx, "scale", "-n", shopSpace, "deployment/front", fmt.Sprintf("--replicas=%d", replicas)); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, address := range []string{serverAddress, agentAddress} {
		err := sealed.Wait(ctx, fmt.Sprintf("answers from %d pods at %s", replicas, address), stepLimit, func(ctx context.Context) error {
			by := map[string]int{}
			for range 4 * replicas {
				got, err := c.browse(ctx, c.server, address, "http://"+plainHost+"/")
				if err != nil {
					return err
				}
				by[got.answer.Pod]++
			}
			if len(by) != replicas {
				return fmt.Errorf("they come from %v", by)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// awaitAnswer waits until the ingresses of both nodes answer with a status.
func (c *charted) awaitAnswer(ctx context.Context, t *testing.T, url, what string, status int) {
	t.Helper()
	for _, address := range []string{serverAddress, agentAddress} {
		err := sealed.Wait(ctx, what+" to take effect at "+address, stepLimit, func(ctx context.Context) error {
			got, err := c.browse(ctx, c.agent, address, url)
			if err == nil && got.status != status {
				err = fmt.Errorf("%s: status %d, want %d", url, got.status, status)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
