package compile

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"

	"github.com/rancher/rke2/build/artifact"
	"github.com/rancher/rke2/build/cache"
	"github.com/rancher/rke2/build/cc"
	"github.com/rancher/rke2/images"
)

// Platform is a build's target.
type Platform = artifact.Platform

// toolchain is the compilers and the environment that a component is built with. Only
// what is listed here reaches the go command: the caller's GOFLAGS, go env -w settings
// and workspaces don't.
type toolchain struct {
	goCmd   string
	version string            // go version
	fetch   map[string]string // where modules come from and go: no part of the key
}

// fetchVars say where modules come from and are kept. go.sum says what they are, so
// they have no part in the result.
var fetchVars = []string{
	"GOPATH", "GOMODCACHE", "GOCACHE", "GOPROXY", "GOSUMDB", "GONOPROXY", "GONOSUMDB",
	"GOPRIVATE", "GOINSECURE", "GOAUTH", "GOVCS", "GOTMPDIR",
}

var passedVars = []string{
	"HOME", "PATH", "TMPDIR", "USER", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
	"http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR",
	"XDG_CACHE_HOME", "XDG_CONFIG_HOME", "NETRC", "GIT_SSH_COMMAND", "SSH_AUTH_SOCK",
}

func detect(ctx context.Context) (*toolchain, error) {
	goCmd, err := exec.LookPath("go")
	if err != nil {
		return nil, fmt.Errorf("finding the go command: %w", err)
	}
	t := &toolchain{goCmd: goCmd, fetch: map[string]string{}}
	out, err := output(ctx, os.Environ(), goCmd, append([]string{"env", "-json", "GOVERSION"}, fetchVars...)...)
	if err != nil {
		return nil, fmt.Errorf("asking the go command for its settings: %w", err)
	}
	var env map[string]string
	if err := json.Unmarshal(out, &env); err != nil {
		return nil, fmt.Errorf("asking the go command for its settings: %w", err)
	}
	t.version = env["GOVERSION"]
	for _, k := range fetchVars {
		if v := env[k]; v != "" {
			t.fetch[k] = v
		}
	}
	return t, nil
}

// settings are the variables that the result depends on.
func (t *toolchain) settings(c images.Component, fips string, p Platform) map[string]string {
	s := map[string]string{
		"GOOS":         p.OS,
		"GOARCH":       p.Arch,
		"CGO_ENABLED":  "0",
		"GOFLAGS":      "",
		"GOENV":        "off",
		"GOWORK":       "off",
		"GOTOOLCHAIN":  "local",
		"GOEXPERIMENT": "",
		"GOFIPS140":    fips,
	}
	switch p.Arch {
	case "amd64":
		s["GOAMD64"] = "v1"
	case "arm64":
		s["GOARM64"] = "v8.0"
	}
	switch c.Crypto {
	case images.BoringCrypto:
		s["GOEXPERIMENT"] = "boringcrypto"
		s["GOFIPS140"] = "off"
	case images.NoCrypto:
		s["GOFIPS140"] = "off"
	}
	if usesCgo(c) {
		s["CGO_ENABLED"] = "1"
		s["CGO_CFLAGS"] = "-O2"
		s["CGO_LDFLAGS"] = ""
		s["LC_ALL"] = "C"
	}
	return s
}

func (t *toolchain) environ(settings map[string]string) []string {
	all := map[string]string{}
	for _, k := range passedVars {
		if v, ok := os.LookupEnv(k); ok {
			all[k] = v
		}
	}
	for _, m := range []map[string]string{t.fetch, settings} {
		for k, v := range m {
			all[k] = v
		}
	}
	env := make([]string, 0, len(all))
	for k, v := range all {
		env = append(env, k+"="+v)
	}
	sort.Strings(env)
	return env
}

// boringcrypto is linked through cgo.
func usesCgo(c images.Component) bool { return c.Cgo != nil || c.Crypto == images.BoringCrypto }

// libraries finds the static libraries that go into the component, and hashes them:
// with cgo they are part of the result.
func libraries(ctx context.Context, compiler cc.Compiler, c images.Component) (map[string]string, error) {
	wanted := []images.Library{{File: "libc.a", Package: "libc6-dev"}, {File: "libpthread.a", Package: "libc6-dev"}}
	if c.Cgo != nil {
		wanted = append(wanted, c.Cgo.Libraries...)
	}
	found := map[string]string{}
	var missing []string
	for _, l := range wanted {
		out, err := output(ctx, os.Environ(), compiler.Path, "-print-file-name="+l.File)
		if err != nil {
			return nil, fmt.Errorf("asking the C compiler for %s: %w", l.File, err)
		}
		// Where it finds none the compiler gives the bare name back.
		path := strings.TrimSpace(string(out))
		if !filepath.IsAbs(path) {
			missing = append(missing, l.Package)
			continue
		}
		sum, err := cache.Sum(path)
		if err != nil {
			return nil, fmt.Errorf("hashing: %w", err)
		}
		found[l.File] = sum
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("component %s needs static libraries that are not installed; on Debian: apt-get install %s", c.Name, strings.Join(missing, " "))
	}
	return found, nil
}

func output(ctx context.Context, env []string, cmd string, args ...string) ([]byte, error) {
	c := exec.CommandContext(ctx, cmd, args...)
	c.Env = env
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", filepath.Base(cmd), strings.Join(args, " "), err, tail(stderr.Bytes()))
	}
	return out, nil
}

// tail keeps the end of a command's output, where the reason is.
func tail(b []byte) string {
	const most = 4 << 10
	b = bytes.TrimSpace(b)
	if len(b) > most {
		b = append([]byte("… "), b[len(b)-most:]...)
	}
	return string(b)
}
