//go:build linux

package scenarios

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rancher/rke2/runtime/doctor"
	"github.com/rancher/rke2/runtime/preflight"
	"github.com/rancher/rke2/tests/sealed"
	"github.com/rancher/rke2/tests/sealed/node"
)

// patient is a host that a doctor looks at.
type patient struct {
	*scenario
	bundle string
}

// TestDoctor brings one fault after the other over a host: rke2 doctor finds it, and rke2
// server refuses to start for it, in the same words and with nothing written. Then the
// host is mended, the node boots, and the doctor looks at it while it runs.
func TestDoctor(t *testing.T) {
	p := products(t)
	h := &patient{&scenario{Node: newNode(t, node.Options{Name: "patient", Binary: p.Binary, Plugins: plugins(t, p)})}, p.Bundle}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), bootLimit)
	defer cancel()
	place(t, h.Node, h.bundle)
	for _, part := range []struct {
		name string
		run  func(context.Context, *testing.T)
	}{
		{"a good host", h.good},
		{"one fault at a time", h.faults},
		{"an hour off is a warning", h.anHourOff},
		{"all faults at once", h.all},
		{"a node that runs", h.running},
	} {
		if !t.Run(part.name, func(t *testing.T) { part.run(ctx, t) }) {
			t.FailNow()
		}
	}
}

// doctor runs rke2 doctor, which must end with the exit code that its report asks for.
func (h *patient) doctor(ctx context.Context, t *testing.T, args ...string) doctor.Report {
	t.Helper()
	out, err := h.Command(ctx, "/usr/local/bin/rke2", append([]string{"doctor", "-o", "json"}, args...)...).Output()
	var failed *sealed.ExitError
	if err != nil && !errors.As(err, &failed) {
		t.Fatal(err)
	}
	var r doctor.Report
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatalf("reading what rke2 doctor wrote: %v\n%s", err, out)
	}
	if fails := r.Verdict == preflight.Fail; fails != (failed != nil) {
		t.Errorf("its verdict is %s, and it ended with %v", r.Verdict, err)
	}
	return r
}

// found is one check of a report.
func found(t *testing.T, r doctor.Report, name string) preflight.Check {
	t.Helper()
	at := slices.IndexFunc(r.Checks, func(c preflight.Check) bool { return c.Name == name })
	if at < 0 {
		t.Fatalf("the report has no check of %s", name)
	}
	return r.Checks[at]
}

// good: nothing is a fault, and what the node needs is where it should be.
func (h *patient) good(ctx context.Context, t *testing.T) {
	before, err := h.Listing(node.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	started := time.Now()
	r := h.doctor(ctx, t)
	report(t, "rke2 doctor", time.Since(started))
	for _, c := range r.Checks {
		if c.Verdict == preflight.Fail || c.Verdict == preflight.Warn && c.ToDo == "" {
			t.Errorf("%s: %s", c.Verdict, c)
		}
	}
	for _, name := range []string{"images", "ports", "data-dir", "route", "clock", "overlayfs"} {
		if c := found(t, r, name); c.Verdict != preflight.OK {
			t.Errorf("%s: %s", c.Verdict, c)
		}
	}
	for _, image := range r.Images {
		if filepath.Base(image.Bundle) != filepath.Base(h.bundle) || !strings.Contains(image.TrustedBy, "release key") {
			t.Errorf("%+v", image)
		}
	}
	text, err := h.Command(ctx, "/usr/local/bin/rke2", "doctor").CombinedOutput()
	if err != nil {
		t.Error(err)
	}
	t.Logf("\n%s", text)
	if _, err := h.Command(ctx, "/usr/local/bin/rke2", "doctor", "--strict").Output(); err == nil {
		t.Error("a development build passes --strict")
	}
	leftNothing(t, h.Node, before)
	if sent, err := h.Outside(); err != nil || len(sent) > 0 {
		t.Errorf("it dialled: %v, %v", sent, err)
	}
}

// fault is one that is brought over a host, and taken away again.
type fault struct {
	name, check string
	bring, mend func(context.Context, *testing.T)
	words       []string
}

func (h *patient) list() []fault {
	certificate := filepath.Join(node.DataDir, "server", "tls", "server-ca.crt")
	var listener *sealed.Cmd
	return []fault{
		{
			name: "no bundle", check: "images",
			bring: func(_ context.Context, t *testing.T) {
				if err := os.RemoveAll(h.Disk(node.ImagesDir)); err != nil {
					t.Fatal(err)
				}
			},
			mend:  func(_ context.Context, t *testing.T) { place(t, h.Node, h.bundle) },
			words: []string{"no bundle has the image", "hardened-etcd", "rke2-runtime", node.ImagesDir, "offline is set"},
		},
		{
			name: "a port is taken", check: "ports",
			bring: func(ctx context.Context, t *testing.T) {
				var err error
				if listener, err = h.Host.Start(ctx, "listener", "/usr/local/bin/rke2", "bundle", "serve", "--listen", ":6443", node.ImagesDir); err != nil {
					t.Fatal(err)
				}
				err = sealed.Wait(ctx, "the listener", stepLimit, func(ctx context.Context) error {
					c, err := h.DialContext(ctx, "tcp", "127.0.0.1:6443")
					if err == nil {
						err = c.Close()
					}
					return err
				})
				if err != nil {
					t.Fatal(err)
				}
			},
			mend: func(_ context.Context, t *testing.T) {
				if err := listener.Signal(syscall.SIGTERM); err != nil {
					t.Fatal(err)
				}
				_ = listener.Wait() // by the signal
			},
			words: []string{"6443 (kube-apiserver) is taken by rke2 (pid "},
		},
		{
			name: "the data folder is read-only", check: "data-dir",
			bring: h.shell("mount --bind " + node.DataDir + " " + node.DataDir + " && mount -o remount,bind,ro " + node.DataDir),
			mend:  h.shell("umount " + node.DataDir),
			words: []string{node.DataDir + " cannot be written to: read-only file system"},
		},
		{
			name: "the disk is too small", check: "space",
			bring: h.shell("mkdir -p " + node.DataDir + "/data && mount -t tmpfs -o size=16m none " + node.DataDir + "/data"),
			mend:  h.shell("umount " + node.DataDir + "/data && rmdir " + node.DataDir + "/data"),
			words: []string{"are free at " + node.DataDir + "/data", "to stage", "make space"},
		},
		{
			name: "no default route", check: "route",
			bring: h.shell("ip route show default > /run/route && ip route del default"),
			mend:  h.shell("ip route add $(cat /run/route)"),
			words: []string{"there is no default route and no node-ip", "node-ip: " + h.Address()},
		},
		{
			name: "the clock is a year behind", check: "clock",
			bring: func(_ context.Context, t *testing.T) {
				h.authority(t, certificate, time.Now().AddDate(1, 0, 0), time.Now().AddDate(11, 0, 0))
			},
			mend:  h.shell("rm -r " + filepath.Dir(filepath.Dir(certificate))),
			words: []string{"the clock says", certificate, "set the clock"},
		},
		{
			name: "the clock is ten years ahead", check: "clock",
			bring: func(_ context.Context, t *testing.T) {
				h.authority(t, certificate, time.Now().AddDate(-20, 0, 0), time.Now().AddDate(-10, 0, 0))
			},
			mend:  h.shell("rm -r " + filepath.Dir(filepath.Dir(certificate))),
			words: []string{"the clock says", certificate + " expired at", "rotate"},
		},
	}
}

// shell is a command of the host that must do.
func (h *patient) shell(script string) func(context.Context, *testing.T) {
	return func(ctx context.Context, t *testing.T) {
		t.Helper()
		if out, err := h.Command(ctx, "sh", "-ec", script).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", script, err, out)
		}
	}
}

// authority writes a cluster's certificate authority. The host's clock is the machine's
// and cannot be set; certificates of another time are what a clock that was set wrong is
// known by.
func (h *patient) authority(t *testing.T, path string, from, to time.Time) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "rke2-server-ca"}, NotBefore: from, NotAfter: to, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})); err != nil {
		t.Fatal(err)
	}
}

// faults: each is found, named and refused; and gone when it was mended.
func (h *patient) faults(ctx context.Context, t *testing.T) {
	for _, f := range h.list() {
		t.Run(f.name, func(t *testing.T) {
			f.bring(ctx, t)
			before, err := h.Listing(node.DataDir)
			if err != nil {
				t.Fatal(err)
			}
			c := found(t, h.doctor(ctx, t), f.check)
			if c.Verdict != preflight.Fail {
				t.Errorf("%s: %s", c.Verdict, c)
			}
			words, took := refusedStart(t, h.Node)
			for _, w := range f.words {
				if !strings.Contains(c.String(), w) {
					t.Errorf("rke2 doctor does not say %q:\n%s", w, c)
				}
			}
			if f.check != "clock" && !strings.Contains(words, c.String()) { // its words change with the time
				t.Errorf("rke2 doctor says\n%s\nand rke2 server\n%s", c, words)
			}
			for _, w := range f.words {
				if !strings.Contains(words, w) {
					t.Errorf("rke2 server does not say %q:\n%s", w, words)
				}
			}
			h.unchanged(t, before)
			f.mend(ctx, t)
			if c := found(t, h.doctor(ctx, t), f.check); c.Verdict != preflight.OK && f.check != "space" {
				t.Errorf("mended, and still %s: %s", c.Verdict, c)
			}
			t.Logf("after %.1f s:\n%s", took.Seconds(), words)
		})
	}
}

// unchanged is leftNothing where a process of the test may run.
func (h *patient) unchanged(t *testing.T, before map[string]string) {
	t.Helper()
	after, err := h.Listing(node.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	if d := node.Difference(before, after); len(d) > 0 {
		t.Errorf("the data folder changed:\n%s", strings.Join(d, "\n"))
	}
}

// anHourOff: a clock that was set in winter is worth a word, and no reason to stay away.
func (h *patient) anHourOff(ctx context.Context, t *testing.T) {
	from := time.Now().Add(time.Hour)
	h.authority(t, filepath.Join(node.DataDir, "server", "tls", "client-ca.crt"), from, from.AddDate(10, 0, 0))
	defer h.shell("rm -r "+node.DataDir+"/server")(ctx, t)
	c := found(t, h.doctor(ctx, t), "clock")
	if c.Verdict != preflight.Warn || !strings.Contains(c.Found, from.UTC().Format("2006-01-02 15:04:05 UTC")) || !strings.Contains(c.Found, "the clock says") {
		t.Errorf("%s: %s", c.Verdict, c)
	}
	t.Log(c)
}

// all: one start names all that is wrong.
func (h *patient) all(ctx context.Context, t *testing.T) {
	var broken []fault
	for _, f := range h.list() {
		switch f.check {
		case "ports", "route":
			f.bring(ctx, t)
			broken = append(broken, f)
		}
	}
	words, _ := refusedStart(t, h.Node)
	if want := fmt.Sprintf("for %d reasons", len(broken)); !strings.Contains(words, want) {
		t.Errorf("no %q in\n%s", want, words)
	}
	for _, f := range broken {
		if !strings.Contains(words, f.words[0]) {
			t.Errorf("%s is not named in\n%s", f.name, words)
		}
		f.mend(ctx, t)
	}
	t.Log(words)
}

// running: the ports that the node's own pods have are no fault, neither for the doctor
// nor for an rke2 that comes after one which was killed; a second rke2 is.
func (h *patient) running(ctx context.Context, t *testing.T) {
	if err := h.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := h.WaitControlPlane(ctx, bootLimit); err != nil {
		t.Fatal(err)
	}
	r := h.doctor(ctx, t)
	for _, c := range r.Checks {
		if c.Verdict == preflight.Fail {
			t.Error(c)
		}
	}
	if c := found(t, r, "ports"); c.Verdict != preflight.OK || !strings.Contains(c.Found, "6443") || !strings.Contains(c.Found, "this node's own") {
		t.Errorf("%s: %s", c.Verdict, c)
	}
	if c := found(t, r, "runtime"); !strings.Contains(c.Found, "staged and unchanged") {
		t.Errorf("%s: %s", c.Verdict, c)
	}
	if c := found(t, r, "certificates"); c.Verdict != preflight.OK || strings.Contains(c.Found, "none yet") {
		t.Errorf("%s: %s", c.Verdict, c)
	}
	out, err := h.Command(ctx, "/usr/local/bin/rke2", "server").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "runs a node on this host already") {
		t.Errorf("a second rke2: %v\n%s", err, out)
	}
	processes, err := h.Find("rke2")
	if err != nil || len(processes) == 0 {
		t.Fatalf("no rke2 runs: %v", err)
	}
	containers, err := h.Containers(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range processes {
		if err := syscall.Kill(p.Pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	_ = h.Wait(ctx, stopLimit) // by the signal
	if err := h.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := h.WaitControlPlane(ctx, bootLimit); err != nil {
		t.Fatal(err)
	}
	after, err := h.Containers(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if d := node.Difference(containers, after); len(d) > 0 {
		t.Errorf("pods did not run on:\n%s", strings.Join(d, "\n"))
	}
}
