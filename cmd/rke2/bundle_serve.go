package main

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/rancher/rke2/airgap/serve"
)

// serveFlags are bundle serve's.
type serveFlags struct {
	listen      string
	plainHTTP   bool
	cert, key   string
	tlsDir      string
	tlsHosts    []string
	htpasswd    string
	workDir     string
	watch       time.Duration
	grace       time.Duration
	connections int
	quiet       bool
	trust       trustOptions
	output      string
}

func newBundleServeCommand() *cobra.Command {
	p := &serveFlags{}
	cmd := &cobra.Command{
		Use:   "serve BUNDLE|DIR...",
		Short: "Serve bundles as a read-only image registry",
		Long: `Answers as an image registry (OCI distribution-spec v1.1, read-only) straight out of
bundle files: images, charts and sets of files, with cosign's tags for their signatures
and attestations, the referrers API, tag lists, _catalog, and ranges of blobs. BUNDLE is a
bundle, another tool's OCI archive, or an OCI layout; of a DIR all that is in it is
served, and what can't be read in it is told and left out.

docker.io/rancher/NAME:TAG is served as rancher/NAME:TAG, as mirrors are asked for it, and
as docker.io/rancher/NAME:TAG below this registry. A path that several registries have is
docker.io's; the others are asked for with their registry in front.

Only images that a trusted key signed are served. Keys are those of this rke2's release
and the host's, or only those named with --key. What is not served is told with its
reason. --image-verification system asks for signatures on this release's images only, as
nodes do; --insecure-unverified for none. Each blob is hashed before it is sent for the
first time; one that is damaged is never sent.

Nothing of a plain bundle is copied: blobs go from the file to the network. A compressed
bundle must be expanded once, into a temporary folder below /var/tmp, or into --work-dir,
where the next start finds it. Parts and deltas are served together with the rest.

Connections are TLS: with --tls-cert and --tls-key, or a certificate made at start, whose
fingerprint is printed. With --tls-dir that certificate is kept, so that clients can be
told to trust it once (DIR/serve.crt). --plain-http serves HTTP.

A file that is added, replaced (by a rename) or removed is noticed when it has come to
rest (--watch), or at SIGHUP; transfers that are under way end with what they began with.
GET /healthz answers 200 with a summary, without a password, and 503 while stopping.
SIGINT and SIGTERM stop it when transfers have ended, or after --grace.

Each request is a line on standard output, with -o json in JSON.`,
		Example: `  rke2 bundle serve /var/lib/rancher/rke2/agent/images

  # for a whole site: certificate, password
  htpasswd -Bc users operator
  rke2 bundle serve --listen :443 --tls-cert site.crt --tls-key site.key --htpasswd users /srv/bundles

  # nodes ask it for everything (/etc/rancher/rke2/registries.yaml)
  #   mirrors:
  #     "*":
  #       endpoint: ["https://files.example.com:5000"]
  #   configs:
  #     "files.example.com:5000":
  #       tls: {ca_file: /etc/rancher/rke2/serve.crt}
  rke2 bundle serve --tls-dir /etc/rke2-serve --tls-host files.example.com /srv/bundles`,
		Args: cobra.MinimumNArgs(1),
	}
	check := outputFlag(cmd, &p.output)
	p.trust.add(cmd)
	f := cmd.Flags()
	f.StringVarP(&p.listen, "listen", "l", ":5000", "`[HOST]:PORT` to listen on")
	f.StringVar(&p.cert, "tls-cert", "", "PEM `file` of the certificate, with what leads to its authority")
	f.StringVar(&p.key, "tls-key", "", "PEM `file` of the certificate's key")
	f.StringVar(&p.tlsDir, "tls-dir", "", "`folder` that a certificate made here is kept in")
	f.StringArrayVar(&p.tlsHosts, "tls-host", nil, "`name` or address for a certificate made here, beside this host's own (repeatable)")
	f.BoolVar(&p.plainHTTP, "plain-http", false, "serve HTTP, without TLS")
	f.StringVar(&p.htpasswd, "htpasswd", "", "`file` of users who may pull, as htpasswd -B makes it (bcrypt)")
	f.StringVar(&p.workDir, "work-dir", "", "`folder` to expand compressed bundles into, kept (default: a temporary one)")
	f.DurationVar(&p.watch, "watch", 5*time.Second, "how often to look for changed files; 0: only at SIGHUP")
	f.DurationVar(&p.grace, "grace", 30*time.Second, "how long transfers may take to end after a stop")
	f.IntVar(&p.connections, "max-connections", 1024, "how many connections there are at a time; more wait")
	f.BoolVar(&p.quiet, "no-access-log", false, "print no line for each request")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := check(); err != nil {
			return err
		}
		return p.run(cmd, args)
	}
	return cmd
}

func (p *serveFlags) run(cmd *cobra.Command, paths []string) (err error) {
	ctx, stop := bundleContext(cmd)
	defer stop()
	conf, fingerprint, err := p.tls()
	if err != nil {
		return err
	}
	out := &serveLog{w: cmd.OutOrStdout(), json: p.output == "json"}
	opt, err := p.options(paths, conf, out)
	if err != nil {
		return err
	}
	work, done, err := workDir(p.workDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	opt.Catalog.Unpack = work
	bar := newMeter(cmd.ErrOrStderr(), "")
	opt.Catalog.Progress = func(what, file string, done, total int64) {
		bar.verb = what
		bar.show(filepath.Base(file), done, total)
		if done == total {
			bar.done()
		}
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", p.listen)
	if err != nil {
		return fmt.Errorf("listening on %s: %w", p.listen, err)
	}
	s, err := serve.New(ctx, opt)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	scheme := "https"
	if conf == nil {
		scheme = "http"
	}
	out.event("listening", fmt.Sprintf("listening on %s://%s", scheme, l.Addr()), map[string]any{"address": scheme + "://" + l.Addr().String()})
	if conf == nil && p.htpasswd != "" {
		out.event("warning", "passwords cross the network in the clear: leave --plain-http out", nil)
	}
	if fingerprint != "" {
		out.event("certificate", "its certificate has the SHA-256 fingerprint "+fingerprint, map[string]any{"sha256": fingerprint})
	}
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	go func() {
		for {
			select {
			case <-hangups:
				if err := s.Reload(ctx); err != nil {
					out.event("fault", "not reloaded: "+err.Error(), map[string]any{"error": err.Error()})
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	err = s.Serve(ctx, l)
	out.event("stopped", "stopped", nil)
	return err
}

func (p *serveFlags) options(paths []string, conf *tls.Config, out *serveLog) (serve.Options, error) {
	opt := serve.Options{
		Paths: paths, TLS: conf, Connections: p.connections, Watch: p.watch, Grace: p.grace, Loaded: out.loaded,
	}
	if p.connections < 1 || p.watch < 0 || p.grace < 0 {
		return opt, errors.New("--max-connections is at least 1, and --watch and --grace are not below 0")
	}
	if !p.quiet {
		opt.Access = out.access
	}
	var err error
	if opt.Catalog.Policy, err = p.trust.policy(); err != nil {
		return opt, err
	}
	if p.htpasswd != "" {
		opt.Users, err = serve.LoadUsers(p.htpasswd)
	}
	return opt, err
}

// tls is nil for plain HTTP. The fingerprint is that of a certificate made here.
func (p *serveFlags) tls() (*tls.Config, string, error) {
	given := p.cert != "" || p.key != ""
	switch {
	case p.plainHTTP && (given || p.tlsDir != "" || len(p.tlsHosts) > 0):
		return nil, "", errors.New("--plain-http goes with no option of TLS")
	case given && (p.tlsDir != "" || len(p.tlsHosts) > 0):
		return nil, "", errors.New("--tls-dir and --tls-host are for a certificate made here, and go with neither --tls-cert nor --tls-key")
	case p.plainHTTP:
		return nil, "", nil
	case given && (p.cert == "" || p.key == ""):
		return nil, "", errors.New("--tls-cert and --tls-key are needed together")
	case given:
		pair, err := tls.LoadX509KeyPair(p.cert, p.key)
		if err != nil {
			return nil, "", fmt.Errorf("reading the certificate %s with key %s: %w", p.cert, p.key, err)
		}
		return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, "", nil
	}
	hosts := append(serve.Hosts(), p.tlsHosts...)
	if h, _, err := net.SplitHostPort(p.listen); err == nil && h != "" {
		if ip := net.ParseIP(h); ip == nil || !ip.IsUnspecified() {
			hosts = append(hosts, h)
		}
	}
	pair, err := serve.SelfSigned(hosts, p.tlsDir)
	if err != nil {
		return nil, "", err
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, serve.Fingerprint(pair), nil
}

// workDir is the folder for expanded bundles. done removes a temporary one. Those of
// processes that were killed are removed at the next start.
func workDir(dir string) (_ string, done func() error, err error) {
	if dir != "" {
		return dir, func() error { return nil }, nil
	}
	const prefix = "rke2-bundle-serve-"
	base := "/var/tmp"
	if left, err := filepath.Glob(filepath.Join(base, prefix+"*")); err == nil {
		for _, d := range left {
			removeUnused(d)
		}
	}
	if dir, err = os.MkdirTemp(base, prefix); err != nil {
		return "", nil, fmt.Errorf("making a work folder (or name one with --work-dir): %w", err)
	}
	f, err := os.Open(dir)
	if err == nil {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
	}
	if err != nil {
		return "", nil, fmt.Errorf("locking the work folder %s: %w", dir, err)
	}
	return dir, func() error { return errors.Join(os.RemoveAll(dir), f.Close()) }, nil
}

// removeUnused removes a work folder that no process holds.
func removeUnused(dir string) {
	f, err := os.Open(dir)
	if err != nil {
		return
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || time.Since(st.ModTime()) < time.Minute {
		return // perhaps about to be locked
	}
	if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
		_ = os.RemoveAll(dir) // it is only in the way
	}
}

// serveLog prints lines, of several goroutines one at a time.
type serveLog struct {
	mu   sync.Mutex
	w    io.Writer
	json bool
}

func (l *serveLog) event(kind, text string, fields map[string]any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.json {
		fmt.Fprintln(l.w, text)
		return
	}
	line := map[string]any{"event": kind, "time": time.Now().UTC().Format(time.RFC3339)}
	for k, v := range fields {
		line[k] = v
	}
	_ = json.NewEncoder(l.w).Encode(line) // a log that can't be written is nobody's
}

func (l *serveLog) access(a serve.Access) {
	if l.json {
		l.mu.Lock()
		defer l.mu.Unlock()
		_ = json.NewEncoder(l.w).Encode(struct { // a log that can't be written is nobody's
			Event string `json:"event"`
			serve.Access
		}{"request", a})
		return
	}
	user := a.User
	if user == "" {
		user = "-"
	}
	fault := ""
	if a.Err != "" {
		fault = "  " + a.Err
	}
	l.event("", fmt.Sprintf("%s  %s  %s  %s %q  %d  %s  %s%s", a.Time.UTC().Format(time.RFC3339), a.Client, user,
		a.Method, a.Path, a.Status, humanBytes(a.Bytes), a.Elapsed.Round(100*time.Microsecond), fault), nil)
}

func (l *serveLog) loaded(load serve.Load) {
	if load.Err != nil {
		l.event("fault", "not reloaded: "+load.Err.Error(), map[string]any{"error": load.Err.Error()})
		return
	}
	l.event("loaded", fmt.Sprintf("serving %s of %s", load.Summary, count(load.Files, "file")),
		map[string]any{"files": load.Files, "items": len(load.Items), "refused": len(load.Refused), "summary": load.Summary})
	for _, r := range load.Refused {
		l.event("refused", fmt.Sprintf("NOT SERVED  %s (%s): %v", r.Subject, strings.Join(r.Files, ", "), r.Err),
			map[string]any{"subject": r.Subject, "files": r.Files, "error": r.Err.Error()})
	}
}
