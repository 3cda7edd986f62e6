// Package doctor looks at everything that a node depends on, running or not, and says
// what it found, what that means and what to do. It changes nothing and, unless told to,
// dials nobody.
package doctor

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/rancher/rke2/airgap/trust"
	"github.com/rancher/rke2/runtime/closure"
	"github.com/rancher/rke2/runtime/preflight"
)

// Options say what to look at.
type Options struct {
	preflight.Input
	Policy trust.Policy
	// Faults are why settings, trust or bundles could not be read; what depends on them is
	// looked at as far as it goes.
	SettingsFault, PolicyFault, FolderFault error
	// ConfigFile is where the settings came from; it may not be there.
	ConfigFile string
	// Settings of charts, which say what else the cluster will need; nil if they can't be
	// read.
	Charts *closure.Settings
	// Dial lets registries and the server to join be asked, Patience each.
	Dial     bool
	Patience time.Duration
}

// Report is what was found, in the order in which it was looked at.
type Report struct {
	Version    string            `json:"version"` // of the release
	Role       string            `json:"role"`
	DataDir    string            `json:"dataDir"`
	Verdict    preflight.Verdict `json:"verdict"` // the worst of all
	Checks     []preflight.Check `json:"checks"`
	Images     []Image           `json:"images"`     // that the node itself needs
	Registries []Pull            `json:"registries"` // where they would be pulled from
}

// Image is one that the node itself needs, and where it has it from.
type Image struct {
	Reference string `json:"reference"`
	NeededBy  string `json:"neededBy"`
	Bundle    string `json:"bundle,omitempty"`
	TrustedBy string `json:"trustedBy,omitempty"`
	Kept      bool   `json:"kept,omitempty"` // from an earlier start; no bundle has it
	Fault     string `json:"fault,omitempty"`
}

// Count is how many checks have a verdict.
func (r Report) Count(v preflight.Verdict) int {
	n := 0
	for _, c := range r.Checks {
		if c.Verdict == v {
			n++
		}
	}
	return n
}

// Examine runs every check. What is wrong is in the report.
func Examine(ctx context.Context, o Options) Report {
	r := Report{
		Version: o.Config.Release.Version, Role: string(o.Config.Role), DataDir: o.Config.DataDir,
		Verdict: preflight.OK, Images: []Image{}, Registries: []Pull{},
	}
	add := func(checks ...preflight.Check) { r.Checks = append(r.Checks, checks...) }
	here := func(checks ...func(preflight.Input) preflight.Check) {
		for _, c := range checks {
			add(c(o.Input))
		}
	}
	add(settings(o))
	here(preflight.User)
	add(trusted(o))
	add(bundles(o)...)
	here(preflight.Images)
	add(workloads(ctx, o)...)
	add(staged(o))
	here(preflight.Space, preflight.DataDir, preflight.Ports)
	here(preflight.Cgroups, preflight.Filesystem, kernel, namespaces, capabilities, limits, swap)
	here(preflight.Route, hostname, resolver)
	here(preflight.Clock, preflight.Expiry)
	here(firewall, networkManager, security, preflight.Hardening)
	pulls, check := registries(ctx, o)
	r.Registries = append(r.Registries, pulls...)
	add(check, offline(o))
	add(join(ctx, o)...)
	for _, s := range preflight.Sources(o.Input) {
		image := Image{Reference: s.Ref.String(), NeededBy: s.What, Bundle: s.File, TrustedBy: s.By, Kept: s.Stored}
		if s.Err != nil {
			image.Fault = s.Err.Error()
		}
		r.Images = append(r.Images, image)
	}
	for _, c := range r.Checks {
		if c.Verdict == preflight.Fail || r.Verdict == preflight.OK {
			r.Verdict = c.Verdict
		}
	}
	return r
}

func settings(o Options) preflight.Check {
	const name = "settings"
	file := o.ConfigFile
	if !o.Machine.Exists(file) && len(o.Machine.Glob(file+".d/*.yaml")) == 0 {
		file = "no " + file + ", so defaults and RKE2_* variables"
	}
	if o.SettingsFault != nil {
		return preflight.Check{Name: name, Verdict: preflight.Fail, Found: o.SettingsFault.Error(),
			ToDo: "correct the setting; what follows is about a node with defaults"}
	}
	c := o.Config
	text := fmt.Sprintf("%s, from %s; data in %s", c.Role, file, c.DataDir)
	if c.Offline {
		text += "; offline"
	}
	return preflight.Check{Name: name, Verdict: preflight.OK, Found: text}
}

// base is a file's name without its folder, for tables.
func base(path string) string { return filepath.Base(path) }

func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
