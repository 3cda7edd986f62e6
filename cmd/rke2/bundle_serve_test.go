package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/tests/distribution"
)

// rke2 is the command as a process of its own.
func rke2(t testing.TB, env []string, args ...string) (cmd *exec.Cmd, out, errs *safeBuffer) {
	t.Helper()
	cmd = exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(append(os.Environ(), asMain+"=1"), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // so that it clears up
	out, errs = &safeBuffer{}, &safeBuffer{}
	cmd.Stdout, cmd.Stderr = out, errs
	return cmd, out, errs
}

// safeBuffer is written to by a process while the test reads.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// served is a running `rke2 bundle serve`.
type served struct {
	cmd  *exec.Cmd
	out  *safeBuffer
	url  string
	gone chan struct{} // closed when it has ended
	err  error         // of its end
}

func serveProcess(t testing.TB, args ...string) *served {
	t.Helper()
	cmd, out, errs := rke2(t, nil, append([]string{"bundle", "serve", "--listen", "127.0.0.1:0"}, args...)...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &served{cmd: cmd, out: out, gone: make(chan struct{})}
	go func() {
		s.err = cmd.Wait()
		close(s.gone)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		select {
		case <-s.gone:
		case <-time.After(time.Minute):
			t.Error("it does not stop")
			_ = cmd.Process.Kill()
		}
		if t.Failed() {
			t.Logf("%.4000s\n%s", out, errs)
		}
	})
	for limit := time.Now().Add(2 * time.Minute); s.url == ""; time.Sleep(20 * time.Millisecond) {
		if _, rest, ok := strings.Cut(out.String(), "listening on "); ok {
			s.url, _, _ = strings.Cut(rest, "\n")
		}
		select {
		case <-s.gone:
			t.Fatalf("it ended: %v\n%s%s", s.err, out, errs)
		default:
		}
		if time.Now().After(limit) {
			t.Fatalf("it does not listen:\n%s%s", out, errs)
		}
	}
	return s
}

// rss is a process's resident memory in bytes: now, at most, and now without the pages of
// its program's file.
func rss(t testing.TB, pid int) (now, peak, own int64) {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		fields := strings.Fields(sc.Text())
		if len(fields) < 2 {
			continue
		}
		n, _ := strconv.ParseInt(fields[1], 10, 64)
		switch fields[0] {
		case "VmRSS:":
			now = n << 10
		case "VmHWM:":
			peak = n << 10
		case "RssAnon:":
			own = n << 10
		}
	}
	return now, peak, own
}

// TestServeManyPulls: two hundred clients pull a whole image at a time, and the server's
// memory stays what it is with one: blobs go from the file to the network.
func TestServeManyPulls(t *testing.T) {
	const clients = 200
	layout := filepath.Join(t.TempDir(), "oci")
	var layers [][]byte
	for i := range byte(4) {
		layers = append(layers, distribution.Random(i, 4<<20))
	}
	key := distribution.WriteLayout(t, layout, distribution.Image{Ref: "docker.io/rancher/app:v1", Platforms: []string{"amd64"}, Layers: layers})
	bundle := filepath.Join(t.TempDir(), "app.tar")
	writeBundleOf(t, bundle, layout)
	for _, c := range []struct {
		what  string
		args  []string
		limit int64 // of growth
	}{
		{"HTTP", []string{"--plain-http"}, 32 << 20},
		{"TLS", nil, 64 << 20}, // a record and a handshake's state a connection
	} {
		t.Run(c.what, func(t *testing.T) {
			s := serveProcess(t, append(c.args, "--key", key, "--no-access-log", bundle)...)
			http := trustAll(clients)
			pull(t, http, s.url) // what is needed once: hashes, tables
			before, _, ownBefore := rss(t, s.cmd.Process.Pid)
			start := time.Now()
			var wg sync.WaitGroup
			var mu sync.Mutex
			total := int64(0)
			for range clients {
				wg.Add(1)
				go func() {
					defer wg.Done()
					n := pull(t, http, s.url)
					mu.Lock()
					defer mu.Unlock()
					total += n
				}()
			}
			wg.Wait()
			after, peak, own := rss(t, s.cmd.Process.Pid)
			t.Logf("%d parallel pulls, %s in %v; server's memory %s with one (%s without its program's file), %s after (%s), at most %s",
				clients, humanBytes(total), time.Since(start).Round(10*time.Millisecond), humanBytes(before), humanBytes(ownBefore),
				humanBytes(after), humanBytes(own), humanBytes(peak))
			if total < clients*16<<20 {
				t.Errorf("only %d bytes came", total)
			}
			if peak-before > c.limit {
				t.Errorf("memory grew by %s", humanBytes(peak-before))
			}
		})
	}
}

func writeBundleOf(t testing.TB, path, layout string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := airgap.Write(t.Context(), f, airgap.Layout(layout), airgap.Selection{Platform: v1.Platform{OS: "linux", Architecture: "amd64"}}); err != nil {
		t.Fatal(err)
	}
}

// pull fetches the image app:v1 as a client does, and checks every digest.
func pull(t testing.TB, c *http.Client, url string) (total int64) {
	get := func(path string, want v1.Hash) []byte {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/v2/rancher/app/"+path, nil)
		if err != nil {
			t.Error(err)
			return nil
		}
		resp, err := c.Do(req)
		if err != nil {
			t.Error(err)
			return nil
		}
		defer resp.Body.Close()
		sum := sha256.New()
		var small bytes.Buffer
		w := io.Writer(sum)
		if resp.ContentLength < 1<<20 {
			w = io.MultiWriter(sum, &small)
		}
		n, err := io.Copy(w, resp.Body)
		total += n
		if err != nil || resp.StatusCode != http.StatusOK || want.Hex != "" && hex.EncodeToString(sum.Sum(nil)) != want.Hex {
			t.Errorf("%s: %d, %d bytes, %v", path, resp.StatusCode, n, err)
		}
		return small.Bytes()
	}
	var m v1.Manifest
	if err := json.Unmarshal(get("manifests/v1", v1.Hash{}), &m); err != nil {
		t.Error(err)
		return 0
	}
	for _, d := range append(m.Layers, m.Config) {
		get("blobs/"+d.Digest.String(), d.Digest)
	}
	return total
}

// TestServeCommand: a new bundle at SIGHUP, a line for each request, an end with SIGTERM.
func TestServeCommand(t *testing.T) {
	layout := filepath.Join(t.TempDir(), "oci")
	key := distribution.WriteLayout(t, layout, distribution.Image{Ref: "docker.io/rancher/app:v1", Platforms: []string{"amd64"}, Layers: [][]byte{{1}}})
	dir := t.TempDir()
	// What a server that was killed left is removed by the next.
	left, err := os.MkdirTemp("/var/tmp", "rke2-bundle-serve-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(left, time.Time{}, time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	s := serveProcess(t, "--key", key, "--watch", "0", dir)
	if _, err := os.Stat(left); !os.IsNotExist(err) {
		t.Errorf("%s is left: %v", left, err)
	}
	if !strings.Contains(s.out.String(), "serving 0 images of 0 files") || !strings.Contains(s.out.String(), "SHA-256 fingerprint ") {
		t.Errorf("%s", s.out)
	}
	writeBundleOf(t, filepath.Join(dir, "app.tar"), layout)
	if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	waitFor(t, s, "serving 1 image of 1 file\n")
	pull(t, trustAll(1), s.url)
	waitFor(t, s, `GET "/v2/rancher/app/manifests/v1"  200  `)
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.gone:
		if s.err != nil {
			t.Error(s.err)
		}
	case <-time.After(time.Minute):
		t.Error("it does not stop")
	}
	if !strings.HasSuffix(s.out.String(), "stopped\n") {
		t.Errorf("%s", s.out)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"bundle", "serve", "--plain-http", "--tls-dir", "x", dir}, "goes with no option of TLS"},
		{[]string{"bundle", "serve", "--tls-cert", "x", dir}, "needed together"},
		{[]string{"bundle", "serve", "--tls-cert", "x", "--tls-key", "y", "--tls-host", "z", dir}, "certificate made here"},
		{[]string{"bundle", "serve", "--plain-http", "--htpasswd", filepath.Join(dir, "none"), dir}, "reading users"},
		{[]string{"bundle", "serve", "--plain-http", "--image-verification", "some", dir}, "is not known"},
		{[]string{"bundle", "serve", "--plain-http", filepath.Join(dir, "none.tar")}, "no such file"},
		{[]string{"bundle", "serve", "--plain-http", "--listen", "256.0.0.1:1", dir}, "listening on"},
		{[]string{"bundle", "serve"}, "requires at least 1 arg"},
	} {
		if out, err := run(c.args...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v\n%s", c.args, err, out)
		}
	}
}

func waitFor(t testing.TB, s *served, text string) {
	t.Helper()
	for limit := time.Now().Add(time.Minute); !strings.Contains(s.out.String(), text); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("no %q in:\n%s", text, s.out)
		}
	}
}
