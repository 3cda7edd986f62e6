package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// cluster answers as an API server: nodes, and one Deployment's scale.
type cluster struct {
	mu       sync.Mutex
	token    string // that it lets in
	nodes    string // the items of its list of nodes
	cut      bool   // the list breaks off
	replicas int
	patches  int
}

func (c *cluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.Header.Get("Authorization") != "Bearer "+c.token {
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, `{"kind":"Status","message":"who are you"}`)
		return
	}
	switch r.Method + " " + r.URL.Path {
	case "GET /api/v1/nodes":
		end := "}"
		if c.cut {
			end = ""
		}
		fmt.Fprintf(w, `{"kind":"NodeList","metadata":{"resourceVersion":"7"},"items":[%s]%s`, c.nodes, end)
	case "PATCH /apis/apps/v1/namespaces/kube-system/deployments/dns/scale":
		body, _ := io.ReadAll(r.Body)
		if r.Header.Get("Content-Type") != "application/merge-patch+json" {
			w.WriteHeader(http.StatusUnsupportedMediaType)
			return
		}
		c.patches++
		if _, err := fmt.Sscanf(string(body), `{"spec":{"replicas":%d}}`, &c.replicas); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		fallthrough
	case "GET /apis/apps/v1/namespaces/kube-system/deployments/dns/scale":
		fmt.Fprintf(w, `{"kind":"Scale","spec":{"replicas":%d},"status":{"replicas":0}}`, c.replicas)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

func (c *cluster) set(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
}

// node is one that is Ready and takes pods.
func node(name, cpu string) string { return nodeThat(name, cpu, "True", false) }

func nodeThat(name, cpu, ready string, cordoned bool) string {
	return fmt.Sprintf(`{"metadata":{"name":%q},"spec":{"x":[{"items":[1]}],"unschedulable":%t},"status":{"capacity":{"cpu":"999"},`+
		`"allocatable":{"cpu":%q,"memory":"1Gi"},"conditions":[{"type":"DiskPressure","status":"False"},{"type":"Ready","status":%q}]}}`, name, cordoned, cpu, ready)
}

// start runs the cluster, and gives a scaler with a service account's files for it.
func start(t *testing.T, c *cluster) (*scaler, *bytes.Buffer) {
	server := httptest.NewTLSServer(c)
	t.Cleanup(server.Close)
	folder := t.TempDir()
	write(t, folder, "token", c.token+"\n")
	write(t, folder, "ca.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})))
	opt, err := parse([]string{"--deployment=dns"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	return &scaler{api: &apiServer{base: server.URL, account: folder}, opt: opt, log: log.New(&out, "", 0)}, &out
}

func write(t *testing.T, folder, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestScalesWhenItDiffers(t *testing.T) {
	c := &cluster{token: "one", replicas: 1, nodes: node("a", "2") + "," + node("b", "1900m")}
	s, out := start(t, c)
	for range 3 {
		if err := s.once(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	if c.replicas != 2 || c.patches != 1 {
		t.Errorf("%d servers after %d changes, want 2 after 1", c.replicas, c.patches)
	}
	if want := "scaled deployment kube-system/dns from 1 to 2: 2 nodes, 3.9 cores; Ready 2, 3.9\n"; out.String() != want {
		t.Errorf("it says %q, want %q", out, want)
	}
	// A node that has just joined has told nothing of its cores.
	c.set(func() { c.nodes = node("a", "2") + `,{"metadata":{"name":"c"}},` + node("b", "600") })
	if err := s.once(context.Background()); err != nil || c.replicas != 3 {
		t.Errorf("%d servers for 602 cores, want 3 (%v)", c.replicas, err)
	}
}

// TestReadiness: who is not there yet asks for nothing, who is away takes nothing away.
func TestReadiness(t *testing.T) {
	first := node("a", "2")
	c := &cluster{token: "one", replicas: 1}
	s, _ := start(t, c)
	for _, step := range []struct {
		name, nodes string
		want        int
	}{
		{"alone", first, 1},
		{"another joins, not Ready yet", first + "," + nodeThat("b", "2", "False", false), 1},
		{"it is cordoned", first + "," + nodeThat("b", "2", "True", true), 1},
		{"it is Ready", first + "," + node("b", "2"), 2},
		{"it is away", first + "," + nodeThat("b", "2", "Unknown", false), 2},
		{"both are", nodeThat("a", "2", "Unknown", false) + "," + nodeThat("b", "2", "Unknown", false), 2},
		{"it was removed", first, 1},
	} {
		c.set(func() { c.nodes = step.nodes })
		if err := s.once(context.Background()); err != nil || c.replicas != step.want {
			t.Errorf("%s: %d servers, want %d (%v)", step.name, c.replicas, step.want, err)
		}
	}
}

// TestFailures: each is said, nothing is scaled, and the next try can succeed.
func TestFailures(t *testing.T) {
	for name, f := range map[string]struct {
		spoil func(*cluster)
		want  string
	}{
		"not let in":         {func(c *cluster) { c.token = "other" }, "401 Unauthorized: who are you"},
		"no nodes":           {func(c *cluster) { c.nodes = "" }, "knows of none"},
		"cut off":            {func(c *cluster) { c.cut = true }, "reading the list of nodes"},
		"not a list":         {func(c *cluster) { c.nodes = `{]` }, "reading the list of nodes"},
		"a strange quantity": {func(c *cluster) { c.nodes = node("a", "many") }, `node a: "many" is no quantity of CPU`},
	} {
		t.Run(name, func(t *testing.T) {
			c := &cluster{token: "one", replicas: 5, nodes: node("a", "2")}
			s, _ := start(t, c)
			f.spoil(c)
			if err := s.once(context.Background()); err == nil || !strings.Contains(err.Error(), f.want) {
				t.Errorf("error %v, want %q in it", err, f.want)
			}
			if c.patches != 0 {
				t.Error("it scaled all the same")
			}
			c.set(func() { c.token, c.cut, c.nodes = "one", false, node("a", "2") })
			if err := s.once(context.Background()); err != nil || c.replicas != 1 {
				t.Errorf("then: %v, %d servers", err, c.replicas)
			}
		})
	}
}

func TestNoDeployment(t *testing.T) {
	c := &cluster{token: "one", nodes: node("a", "2")}
	s, _ := start(t, c)
	s.opt.deployment = "gone"
	if err := s.once(context.Background()); err == nil || !strings.Contains(err.Error(), "kube-system/gone: 404") {
		t.Errorf("error %v", err)
	}
}

// TestAccountChanges: the kubelet replaces the token, and an operator the cluster's CA.
func TestAccountChanges(t *testing.T) {
	c := &cluster{token: "one", replicas: 1, nodes: node("a", "2")}
	s, _ := start(t, c)
	if err := s.once(context.Background()); err != nil {
		t.Fatal(err)
	}
	c.set(func() { c.token = "two" })
	write(t, s.api.account, "token", "two")
	if err := s.once(context.Background()); err != nil {
		t.Errorf("with the new token: %v", err)
	}
	was, _ := os.ReadFile(filepath.Join(s.api.account, "ca.crt"))
	write(t, s.api.account, "ca.crt", "nothing")
	if err := s.once(context.Background()); err == nil || !strings.Contains(err.Error(), "no certificate in") {
		t.Errorf("with a broken CA: %v", err)
	}
	write(t, s.api.account, "ca.crt", string(was))
	if err := s.once(context.Background()); err != nil {
		t.Errorf("with the CA again: %v", err)
	}
}

// TestUntrusted: a server that the CA did not sign gets no token.
func TestUntrusted(t *testing.T) {
	c := &cluster{token: "one", nodes: node("a", "2")}
	s, _ := start(t, c)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	foreign, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, s.api.account, "ca.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: foreign})))
	if err := s.once(context.Background()); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("error %v", err)
	}
}

func TestLoopAndProbes(t *testing.T) {
	c := &cluster{token: "one", replicas: 1, nodes: ""}
	s, out := start(t, c)
	s.opt.period = 5 * time.Millisecond
	probe := func(path string) (int, string) {
		w := httptest.NewRecorder()
		s.health().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		return w.Code, w.Body.String()
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); s.loop(ctx) }()
	await := func(path string, code int, text string) {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			got, body := probe(path)
			if got == code && strings.Contains(body, text) {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("%s: %d %q, want %d %q", path, got, body, code, text)
			}
		}
	}
	await("/ready", http.StatusServiceUnavailable, "knows of none")
	if code, body := probe("/live"); code != http.StatusOK {
		t.Errorf("one who tries is not alive: %s", body)
	}
	c.set(func() { c.nodes = node("a", "2") + "," + node("b", "2") })
	await("/ready", http.StatusOK, "ok")
	stop()
	<-done
	if c.replicas != 2 {
		t.Errorf("%d servers, want 2", c.replicas)
	}
	// Told once, however often it happened.
	if n := strings.Count(out.String(), "knows of none"); n != 1 {
		t.Errorf("a lasting failure is told %d times:\n%s", n, out)
	}
	s.mu.Lock()
	s.tried = time.Now().Add(-time.Hour)
	s.mu.Unlock()
	if code, body := probe("/live"); code != http.StatusServiceUnavailable || !strings.Contains(body, "nothing was tried for 1h0m0s") {
		t.Errorf("one who stands still is alive: %d %s", code, body)
	}
}

func TestFlags(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"", "no --deployment is named"},
		{"--deployment=dns --period=0s", "must be above 0"},
		{"--deployment=dns --min=0", "without one there is no DNS"},
		{"--deployment=dns more", `unexpected argument "more"`},
		{"--deployment=dns --colour=red", "not defined"},
	} {
		if _, err := parse(strings.Fields(c.args), io.Discard); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: error %v, want %q in it", c.args, err, c.want)
		}
	}
	var out bytes.Buffer
	if _, err := parse([]string{"--help"}, &out); err == nil || !strings.Contains(out.String(), "nodes-per-replica") {
		t.Errorf("help: %v\n%s", err, &out)
	}
}
