package engine

import (
	"slices"
	"testing"

	"github.com/rancher/wharfie/pkg/registries"
)

func TestWithPrefixes(t *testing.T) {
	const peers = "https://127.0.0.1:9345/v2"
	endpoints := []string{"https://mirror.example", "mirror.example:5000", "https://mirror.example/v2", "https://mirror.example/proxy/", peers}
	got, ok := withPrefixes(registries.Mirror{Endpoints: endpoints, Rewrites: map[string]string{"^(.*)$": "hub/cache/$1"}}, peers)
	want := []string{
		"https://mirror.example/v2/hub/cache", "https://mirror.example:5000/v2/hub/cache", "https://mirror.example/v2/hub/cache",
		"https://mirror.example/proxy/hub/cache", peers,
	}
	if !ok || !slices.Equal(got.Endpoints, want) || len(got.Rewrites) > 0 {
		t.Errorf("got %t, %+v, want %q", ok, got, want)
	}
	for pattern, replacement := range map[string]string{
		"^rancher/(.*)": "mirror/$1", "^(.*)$": "$1-mirror", "(.*)": "a/$1/b", ".*": "other", "^(.+)$": "${1}",
	} {
		m := registries.Mirror{Endpoints: endpoints[:1], Rewrites: map[string]string{pattern: replacement}}
		if got, ok := withPrefixes(m, peers); ok || !slices.Equal(got.Endpoints, m.Endpoints) || len(got.Rewrites) != 1 {
			t.Errorf("%s to %s: got %t, %+v", pattern, replacement, ok, got)
		}
	}
	if got, ok := withPrefixes(registries.Mirror{Endpoints: endpoints}, peers); !ok || !slices.Equal(got.Endpoints, endpoints) {
		t.Errorf("without rewrites: %t, %+v", ok, got)
	}
}
