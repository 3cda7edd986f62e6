package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/airgap/trust"
	"github.com/rancher/rke2/runtime/closure"
	"github.com/rancher/rke2/runtime/config"
	"github.com/rancher/rke2/runtime/preflight"
	"github.com/rancher/rke2/runtime/scan"
	"github.com/rancher/rke2/runtime/stage"
)

// trusted says whose signatures count.
func trusted(o Options) preflight.Check {
	c := preflight.Check{Name: "trust", Verdict: preflight.OK}
	if o.PolicyFault != nil {
		c.Verdict, c.Found = preflight.Fail, o.PolicyFault.Error()
		c.ToDo = "correct it: until then no image can be verified, and the node does not start"
		return c
	}
	var keys []string
	for _, of := range [][]trust.Key{o.Policy.ReleaseKeys, o.Policy.OperatorKeys} {
		for _, k := range of {
			keys = append(keys, k.String())
		}
	}
	must := map[trust.Mode]string{
		trust.ModeSystem: "system images must be signed", trust.ModeAll: "every image must be signed", trust.ModeOff: "NOTHING IS VERIFIED",
	}[o.Config.Verification]
	c.Found = fmt.Sprintf("%s, by %s", must, strings.Join(keys, ", "))
	if len(o.Policy.OperatorKeys) == 0 {
		c.Found += "; no keys in " + o.Config.TrustDir
	}
	switch {
	case len(o.Config.Release.Images) == 0:
		c.Verdict, c.Found = preflight.Fail, "this rke2 was built without a release: it trusts nothing, and does not know which images it needs"
		c.ToDo = "use the rke2 of a release"
	case o.Config.Verification == trust.ModeOff:
		c.Verdict, c.ToDo = preflight.Warn, "set image-verification: system; for images that you signed, put your public key into "+o.Config.TrustDir
	case o.Config.Release.Development:
		c.Verdict = preflight.Warn
		c.Found += " (a DEVELOPMENT build)"
		c.ToDo = "do not use it for production: its key was made for one build"
	}
	return c
}

// bundles says of each file of agent/images what it is and whether it can be used.
func bundles(o Options) []preflight.Check {
	const name = "bundle"
	if o.FolderFault != nil {
		return []preflight.Check{{Name: name, Verdict: preflight.Fail, Found: o.FolderFault.Error(), ToDo: "make the folder readable"}}
	}
	var out []preflight.Check
	for _, file := range o.Folder.Files {
		if file.Err != nil {
			out = append(out, preflight.Check{Name: name, Verdict: preflight.Warn, Found: fmt.Sprintf("%s is passed over: %v", base(file.Path), file.Err),
				ToDo: "copy it again, or remove it"})
			continue
		}
		out = append(out, bundle(o, file))
	}
	for _, path := range o.Folder.Other {
		if ext := strings.ToLower(filepath.Ext(path)); ext != ".txt" && ext != ".json" {
			out = append(out, preflight.Check{Name: name, Verdict: preflight.Warn, Found: base(path) + " is not looked at: its name does not end like a bundle's",
				ToDo: "if it is one, name it *.tar, *.tar.zst or *.tar.gz; else remove it"})
		}
	}
	if len(out) == 0 {
		found := "none in " + o.Folder.Dir
		if !o.Folder.Exists {
			found = o.Folder.Dir + " does not exist"
		}
		out = append(out, preflight.Check{Name: name, Verdict: preflight.OK, Found: found})
	}
	return out
}

// bundle describes one that can be read.
func bundle(o Options, file scan.File) preflight.Check {
	a := file.Archive
	c := preflight.Check{Name: "bundle", Verdict: preflight.OK}
	kind := "archive"
	if a.IsBundle() {
		kind = "bundle"
	}
	p, partial := a.Partial()
	if partial {
		kind = p.String()
	}
	signed, unsigned := 0, 0
	var others []string
	for _, image := range a.Images() {
		if pf := image.Platform; pf != nil && (pf.OS != "linux" || pf.Architecture != runtime.GOARCH) {
			if text := pf.OS + "/" + pf.Architecture; !slices.Contains(others, text) {
				others = append(others, text)
			}
			continue
		}
		if a.Format() == airgap.FormatDockerArchive {
			unsigned++
			continue
		}
		admitted, err := o.Admit(a, image)
		switch {
		case err != nil:
			c.Verdict, c.ToDo = preflight.Warn, "images that are refused are not imported: have them signed by a trusted key, or bring the bundle of this release"
			c.Details = append(c.Details, err.Error())
		case admitted.Verified():
			signed++
		default:
			unsigned++
		}
	}
	images := len(a.Images())
	c.Found = fmt.Sprintf("%s: %s, %s, %s: %d verified", base(file.Path), kind, preflight.Size(a.Size()), count(images, "image"), signed)
	if unsigned > 0 {
		c.Found += fmt.Sprintf(", %d that need no signature", unsigned)
	}
	if len(c.Details) > 0 {
		c.Found += fmt.Sprintf(", %d refused", len(c.Details))
	}
	if len(others) > 0 {
		c.Verdict, c.ToDo = preflight.Warn, "bring the bundle for linux/"+runtime.GOARCH
		c.Found += ", for " + strings.Join(others, " and ") + " some or all"
	}
	if partial {
		if missing := o.Folder.Missing(a); missing != nil {
			c.Verdict, c.ToDo = preflight.Warn, "copy what is missing into "+o.Folder.Dir
			c.Details = append(c.Details, missing.Error())
		}
	}
	return c
}

// staged says how the node's executables are on disk.
func staged(o Options) preflight.Check {
	c := preflight.Check{Name: "runtime", Verdict: preflight.OK, Found: "not staged yet: that is done at the first start"}
	ref, err := o.Config.Image(config.RoleRuntime)
	if err != nil {
		return c
	}
	tag, ok := ref.(name.Tag)
	if !ok {
		return c
	}
	admitted, ok := o.Policy.Pinned(tag)
	if !ok {
		c.Found = "another image than the release's is configured: it is looked at when the node starts"
		return c
	}
	root, err := stage.Existing(o.Config.DataDir, admitted)
	var drift *stage.DriftError
	switch {
	case err == nil:
		c.Found = "staged and unchanged in " + root.Dir
	case errors.As(err, &drift):
		c.Verdict, c.Found, c.ToDo = preflight.Warn, err.Error(), "start rke2: it restores from the bundle what changed. Find out who changed it"
	case errors.Is(err, fs.ErrNotExist):
		if entries, err := os.ReadDir(filepath.Join(o.Config.DataDir, "data")); err == nil && len(entries) > 0 {
			c.Found = "this release's is not staged yet; another one's is"
		}
	default:
		c.Verdict, c.Found, c.ToDo = preflight.Warn, err.Error(), "run it as root"
	}
	return c
}

// workloads proves that what the server's charts and manifests run is in the bundles.
func workloads(ctx context.Context, o Options) []preflight.Check {
	if o.Config.Role != config.Server || o.Charts == nil || len(o.Config.Release.Images) == 0 {
		return nil
	}
	s := *o.Charts
	s.DataDir, s.SystemDefaultRegistry, s.AirgapExtraRegistries = o.Config.DataDir, o.Config.SystemDefaultRegistry, o.Config.AirgapExtraRegistries
	s.ImageOverrides = o.Config.ImageOverrides
	var manifests []string
	if dir := filepath.Join(s.DataDir, "server", "manifests"); exists(dir) {
		manifests = append(manifests, dir)
	}
	c := preflight.Check{Name: "workloads", Verdict: preflight.OK}
	report, err := closure.Prove(ctx, closure.Input{
		Release: o.Config.Release, Settings: s, Bundles: o.Folder.Files, Manifests: manifests,
		Platform: v1.Platform{OS: "linux", Architecture: runtime.GOARCH},
	})
	if err != nil {
		c.Verdict, c.Found, c.ToDo = preflight.Warn, "what charts and manifests need cannot be told: "+err.Error(), "correct it, or see rke2 bundle closure"
		return []preflight.Check{c}
	}
	judge(&c, o, report)
	return []preflight.Check{c}
}

// judge turns gaps into a verdict: what the release's own charts lack keeps the cluster
// from coming up where nothing can be pulled; what the operator's lack is theirs.
func judge(c *preflight.Check, o Options, report closure.Report) {
	of := map[string]bool{}
	for _, n := range preflight.Needs(o.Config) {
		of[n.Ref.String()] = true
	}
	needed, missing := 0, 0
	for _, image := range report.Images {
		if of[image.Reference] {
			continue // the check of images is about these
		}
		needed++
		if image.Gap == nil {
			continue
		}
		missing++
		c.Verdict = preflight.Warn
		c.Details = append(c.Details, fmt.Sprintf("%s (%s): %s", image.Reference, image.Needs[0], image.Gap.Reason))
	}
	c.Found = fmt.Sprintf("%s of %s and the manifests in %s: all in bundles", count(needed, "image"), count(len(report.Charts), "chart"), filepath.Join(o.Config.DataDir, "server", "manifests"))
	if missing > 0 {
		c.Found = fmt.Sprintf("%d of %s of charts and manifests are in no bundle", missing, count(needed, "image"))
		c.ToDo = "add a bundle that has them; rke2 bundle closure says which need it, and what is near"
		if o.Config.Offline && len(report.Charts) > 0 {
			c.Verdict = preflight.Fail
		}
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
