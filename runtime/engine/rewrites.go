package engine

import (
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/rancher/wharfie/pkg/registries"
)

// everyName is a rewrite's pattern that matches every repository as a whole, and prefix
// what such a rewrite gives where it puts folders before the name.
var (
	everyName = []string{"(.*)", "^(.*)", "(.*)$", "^(.*)$", "(.+)", "^(.+)", "(.+)$", "^(.+)$"}
	prefix    = regexp.MustCompile(`^([A-Za-z0-9._/-]*[A-Za-z0-9._-])/\$(1|\{1\})$`)
)

// withPrefixes puts a mirror's rewrite into the paths of its endpoints, which is the form
// that containerd knows (override_path). It can be done for a rewrite that puts folders
// before every name, the usual one; false if this is another. An endpoint that is keep
// stays as it is.
func withPrefixes(m registries.Mirror, keep string) (registries.Mirror, bool) {
	if len(m.Rewrites) == 0 {
		return m, true
	}
	if len(m.Rewrites) > 1 {
		return m, false
	}
	for pattern, replacement := range m.Rewrites {
		found := prefix.FindStringSubmatch(replacement)
		if !slices.Contains(everyName, pattern) || found == nil {
			return m, false
		}
		endpoints := slices.Clone(m.Endpoints)
		for i, e := range endpoints {
			if e == keep {
				continue
			}
			if !strings.Contains(e, "://") {
				e = "https://" + e
			}
			u, err := url.Parse(e)
			if err != nil {
				return m, false
			}
			path := strings.TrimSuffix(u.Path, "/")
			if path == "" {
				path = "/v2"
			}
			u.Path = path + "/" + found[1]
			endpoints[i] = u.String()
		}
		m.Endpoints, m.Rewrites = endpoints, nil
	}
	return m, true
}

// adaptRewrites gives containerd the rewrites of the registry configuration in a form that
// it knows, and says which it will not follow.
func (e *Executor) adaptRewrites(registry *registries.Registry, peers string) {
	for host, mirror := range registry.Mirrors {
		adapted, ok := withPrefixes(mirror, peers)
		if !ok {
			e.log.Warn("a mirror's rewrites hold for what rke2 fetches itself, and not for the images of pods: containerd can only put folders before every name (\"^(.*)$\": \"folder/$1\")",
				"mirror", host, "file", e.config.PrivateRegistry)
		}
		registry.Mirrors[host] = adapted
	}
}
