package node

import (
	"strings"
	"testing"

	"github.com/rancher/rke2/airgap/trust"
	"github.com/rancher/rke2/images"
	"github.com/rancher/rke2/runtime/config"
)

func TestAdmitPull(t *testing.T) {
	ours, other := "sha256:"+strings.Repeat("a", 64), "sha256:"+strings.Repeat("b", 64)
	c := config.Config{TrustDir: t.TempDir(), Release: images.Release{Images: []images.ReleaseImage{
		{Name: "pause", Reference: "docker.io/rancher/mirrored-pause:v1", Digests: map[string]string{"linux/" + goarch: ours}},
	}}}
	for _, test := range []struct {
		mode           trust.Mode
		reference      string
		digest         string
		grounds, fault string
	}{
		{trust.ModeAll, "docker.io/rancher/mirrored-pause:v1", ours, "release", ""},
		{trust.ModeAll, "docker.io/rancher/mirrored-pause@" + ours, ours, "release", ""},
		{trust.ModeAll, "mirror.example:5000/rancher/mirrored-pause:v1", ours, "release", ""},
		{trust.ModeAll, "docker.io/rancher/mirrored-pause:v1", other, "", "this release has"},
		{trust.ModeAll, "docker.io/rancher/mirrored-pause@" + other, other, "", "in a bundle"},
		{trust.ModeAll, "docker.io/example/app:v1", ours, "", "in a bundle"},
		{trust.ModeAll, "docker.io/example/app@" + other, other, "", "in a bundle"},
		{trust.ModeSystem, "docker.io/rancher/mirrored-pause:v2", other, "", "in a bundle"},
		{trust.ModeSystem, "docker.io/example/app:v1", other, "not required", ""},
		{trust.ModeOff, "docker.io/rancher/mirrored-pause:v1", other, "off", ""},
		{trust.ModeAll, "docker.io/example/app:v1", "sha256:short", "", "docker.io/example/app:v1"},
		{trust.ModeAll, "::", ours, "", "::"},
	} {
		c.Verification = test.mode
		grounds, err := AdmitPull(c, test.reference, test.digest)
		switch {
		case test.fault != "" && (err == nil || !strings.Contains(err.Error(), test.fault)):
			t.Errorf("%s, %s: %q, %v; want an error about %q", test.mode, test.reference, grounds, err, test.fault)
		case test.fault == "" && (err != nil || !strings.Contains(grounds, test.grounds)):
			t.Errorf("%s, %s: %q, %v; want %q", test.mode, test.reference, grounds, err, test.grounds)
		}
	}
}
