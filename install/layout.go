package install

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/images"
)

// baseSets are the sets of the archive that is called just rke2-images.
var baseSets = []string{"core", "canal"}

// Settings say what to lay out, from where and to where.
type Settings struct {
	// Dist is the folder of the products: release.json, the node binaries, the bundles,
	// their OCI layout, SBOMs and provenance.
	Dist string
	// Out is the folder that the artifacts go to. It is replaced as a whole.
	Out string
	// Licence is the file with the project's licence.
	Licence   string
	Release   []byte // release.json
	Platforms []v1.Platform
	Host      string    // architecture whose node binary is called just rke2
	Epoch     time.Time // SOURCE_DATE_EPOCH
	// PublicKey (PEM) is of the key that Sign signs with: the release's.
	PublicKey []byte
	// Sign gives the signature of a file's content as cosign sign-blob does: base64.
	Sign func(ctx context.Context, content []byte) ([]byte, error)
	// Describe says of the node binary in a file, whose SHA-256 in hex is given, what is in
	// it and what it was made from.
	Describe func(file string, p v1.Platform, digest string) (Description, error)
	// Report is told of each artifact when it is there. It may be nil.
	Report func(Artifact)
}

// Description is what is known of a program.
type Description struct {
	SBOM       []byte // SPDX, JSON
	Provenance []byte // SLSA v1 provenance in an in-toto statement, JSON
}

// Artifact is a file that was laid out.
type Artifact struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"` // bytes
	SHA256 string `json:"sha256"`
}

// layouter lays one release out.
type layouter struct {
	Settings
	release images.Release
	dir     string // where the artifacts are until all are there
	made    map[string]Artifact
}

// Lay lays the artifacts of all platforms out in Settings.Out, and gives them sorted by
// name. The node binaries and bundles must be of the release, all of it signed by the key:
// anything else is an error, and then the folder stays as it was. The same products give
// the same bytes.
func Lay(ctx context.Context, s Settings) (_ []Artifact, err error) {
	fail := func(err error) ([]Artifact, error) { return nil, fmt.Errorf("laying the release out: %w", err) }
	l := &layouter{Settings: s, made: map[string]Artifact{}}
	if l.release, err = images.ParseRelease(s.Release); err != nil {
		return fail(err)
	}
	if !slices.ContainsFunc(l.release.PublicKeys, func(k string) bool { return strings.TrimSpace(k) == strings.TrimSpace(string(s.PublicKey)) }) {
		return fail(errors.New("the key is not the release's: name the one that the images were signed with, or sign them again (rke2-build sign, rke2-build release)"))
	}
	if err := ours(s.Out); err != nil {
		return fail(err)
	}
	l.dir = filepath.Join(filepath.Dir(s.Out), "."+filepath.Base(s.Out)+".partial")
	unlock, err := claim(l.dir)
	if err != nil {
		return fail(err)
	}
	defer unlock()
	defer func() { err = errors.Join(err, os.RemoveAll(l.dir)) }()
	for _, p := range s.Platforms {
		if err := l.platform(ctx, p); err != nil {
			return fail(err)
		}
	}
	if err := swap(l.dir, s.Out); err != nil {
		return fail(err)
	}
	var out []Artifact
	for _, a := range l.made {
		out = append(out, a)
	}
	slices.SortFunc(out, func(a, b Artifact) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// ours refuses to replace a folder that is not an earlier release's.
func ours(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	if slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == scriptName }) {
		return nil
	}
	return fmt.Errorf("%s is there and is not a release's: name another folder, or empty it", dir)
}

// claim makes an empty folder that only this process works in.
func claim(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	// The lock goes with the process.
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("another process is writing %s", dir)
	}
	left, err := os.ReadDir(dir)
	for _, e := range left {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return func() { _ = f.Close() }, nil
}

// swap puts dir in the place of out: at every moment the old or the new one is there.
func swap(dir, out string) error {
	if err := syncDir(dir); err != nil {
		return err
	}
	err := unix.Renameat2(unix.AT_FDCWD, dir, unix.AT_FDCWD, out, unix.RENAME_EXCHANGE)
	if errors.Is(err, unix.ENOENT) {
		err = os.Rename(dir, out)
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: dir, New: out, Err: err}
	}
	return syncDir(filepath.Dir(out))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// platform lays out what is for one platform, and signs the list of its sums.
func (l *layouter) platform(ctx context.Context, p v1.Platform) error {
	var names []string
	for _, step := range []func(context.Context, v1.Platform) ([]string, error){
		l.binary, l.bundles, l.base, l.statements, l.common,
	} {
		more, err := step(ctx, p)
		if err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
		names = append(names, more...)
	}
	slices.Sort(names)
	var list strings.Builder
	for _, name := range names {
		fmt.Fprintf(&list, "%s  %s\n", l.made[name].SHA256, name)
	}
	sums := airgap.SumsName(p)
	sig, err := l.Sign(ctx, []byte(list.String()))
	if err != nil {
		return err
	}
	return errors.Join(l.bytes(sums, []byte(list.String()), 0o644), l.bytes(sums+".sig", sig, 0o644))
}

// bundles places every bundle of the platform, and the lists of their images.
func (l *layouter) bundles(_ context.Context, p v1.Platform) ([]string, error) {
	found, err := filepath.Glob(filepath.Join(l.Dist, "rke2-images-*."+p.OS+"-"+p.Architecture+".*"))
	if err != nil {
		return nil, err
	}
	var names []string
	have := map[string]bool{}
	for _, file := range found {
		name := filepath.Base(file)
		switch {
		case airgap.HasArchiveName(name):
			sets, err := l.checkBundle(file, p)
			if err != nil {
				return nil, err
			}
			for _, s := range sets {
				have[s] = true
			}
		case filepath.Ext(name) != ".txt":
			continue
		}
		if err := l.link(file, name); err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	if !have[baseSets[0]] {
		return nil, fmt.Errorf("%s has no bundle of the set %s: run make airgap", l.Dist, baseSets[0])
	}
	return names, nil
}

// base writes the archive that has the sets of a plain node in one.
func (l *layouter) base(ctx context.Context, p v1.Platform) ([]string, error) {
	declared := map[string]bool{}
	for _, i := range l.release.Images {
		for _, s := range i.Sets {
			declared[s] = true
		}
	}
	for _, s := range baseSets {
		if !declared[s] {
			return nil, nil // a release of other images has no such archive
		}
	}
	plan, err := airgap.NewPlan(airgap.Layout(filepath.Join(l.Dist, "oci")), airgap.Selection{Sets: baseSets, Platform: p})
	if err != nil {
		return nil, err
	}
	if err := l.checkImages(plan.Images, p); err != nil {
		return nil, err
	}
	name := "rke2-images." + p.OS + "-" + p.Architecture
	err = l.write(name+".tar", 0o644, func(w io.Writer) error { return plan.Write(ctx, w) })
	if err != nil {
		return nil, err
	}
	err = l.bytes(name+".txt", []byte(strings.Join(plan.References(), "\n")+"\n"), 0o644)
	return []string{name + ".tar", name + ".txt"}, err
}

// statements places what is known of each image: the SPDX document by itself, as tools
// take it, and the in-toto statement of its provenance.
func (l *layouter) statements(_ context.Context, p v1.Platform) ([]string, error) {
	var names []string
	for _, i := range l.release.Images {
		base := i.Name + "." + p.OS + "-" + p.Architecture
		bill, err := predicate(filepath.Join(l.Dist, "sbom", base+".spdx.json"))
		if err != nil {
			return nil, err
		}
		if err := l.bytes(base+".spdx.json", bill, 0o644); err != nil {
			return nil, err
		}
		if err := l.link(filepath.Join(l.Dist, "provenance", base+".json"), base+".provenance.json"); err != nil {
			return nil, err
		}
		names = append(names, base+".spdx.json", base+".provenance.json")
	}
	return names, nil
}

// predicate is what an in-toto statement says of its subject.
func predicate(file string) ([]byte, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var statement struct {
		Predicate json.RawMessage `json:"predicate"`
	}
	if err := json.Unmarshal(data, &statement); err != nil {
		return nil, fmt.Errorf("reading %s: %w: run rke2-build image", file, err)
	}
	if len(statement.Predicate) == 0 {
		return nil, fmt.Errorf("reading %s: it states nothing: run rke2-build image", file)
	}
	return append(statement.Predicate, '\n'), nil
}

// scriptName is the file that tells a release's folder from others.
const scriptName = "install.sh"

// common places what is the same for every platform.
func (l *layouter) common(context.Context, v1.Platform) ([]string, error) {
	script, err := Script(l.PublicKey)
	if err != nil {
		return nil, err
	}
	names := []string{scriptName, "cosign.pub"}
	if _, done := l.made[scriptName]; done {
		return names, nil
	}
	return names, errors.Join(l.bytes(scriptName, script, 0o755), l.bytes("cosign.pub", l.PublicKey, 0o644))
}
