package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/airgap/trust"
	"github.com/rancher/rke2/runtime/config"
	"github.com/rancher/rke2/runtime/imageimport"
	"github.com/rancher/rke2/runtime/prepull"
	"github.com/rancher/rke2/runtime/scan"
	"github.com/rancher/rke2/runtime/stage"
)

// Where says what containerd has of an image.
type Where string

// The states of an image on a node.
const (
	Present    Where = "present"    // whole, under its name
	Staged     Where = "staged"     // the node's executables, unpacked and unchanged
	Incomplete Where = "incomplete" // blobs are missing
	Other      Where = "other"      // another image has its name
	Absent     Where = "absent"
	Unknown    Where = "unknown" // containerd could not be asked
)

// NodeImage is one image that a node needs, or was given.
type NodeImage struct {
	Reference string   `json:"reference"`
	Why       []string `json:"why"` // who needs it; "bundle" if nobody but that it is in one
	Digest    string   `json:"digest,omitempty"`
	Bundle    string   `json:"bundle,omitempty"`  // path of the file that it is, or would be, imported from
	Trusted   string   `json:"trusted,omitempty"` // the key that verified it, or why none had to
	Verified  bool     `json:"verified"`          // by a trusted key, or the digest that came with the program
	Fault     string   `json:"fault,omitempty"`   // why it is not taken from its bundle
	State     Where    `json:"state"`
	Pinned    bool     `json:"pinned"` // the kubelet will not collect it
	// Missing is true if it is nowhere: not in containerd, not staged, and in no bundle
	// that may be used.
	Missing bool `json:"missing"`
}

// Inventory is what a node needs, and where that is.
type Inventory struct {
	Role    config.Role `json:"role"`
	Folder  string      `json:"folder"`
	Offline bool        `json:"offline"`
	// Containerd is "running", "stopped" or "never ran", or why it is not known.
	Containerd string      `json:"containerd"`
	Images     []NodeImage `json:"images"`
	Faults     []string    `json:"faults"` // of bundles and lists
}

// Missing counts the images that are nowhere.
func (i Inventory) Missing() int {
	n := 0
	for _, image := range i.Images {
		if image.Missing {
			n++
		}
	}
	return n
}

// TakeInventory looks at what a node with these settings needs, whether it runs or not.
// It changes nothing. The images that the node itself needs come first.
func TakeInventory(ctx context.Context, c config.Config) (_ Inventory, err error) {
	inventory := Inventory{Role: c.Role, Folder: c.ImagesDir(), Offline: c.Offline, Images: []NodeImage{}, Faults: []string{}}
	policy, err := newPolicy(c)
	if err != nil {
		return inventory, err
	}
	folder, err := scan.Open(c.ImagesDir())
	if err != nil {
		return inventory, err
	}
	content := &Content{config: c, policy: policy, folder: folder, log: slog.New(slog.DiscardHandler)}
	defer func() { err = errors.Join(err, content.Close()) }()
	t := taking{Content: content, inventory: &inventory, at: map[string]int{}}
	ctx = namespaces.WithNamespace(ctx, kubernetesNamespace)
	t.containerd(ctx)
	t.items, t.refused = content.admit()
	t.incomplete()
	if err := t.system(); err != nil {
		return inventory, err
	}
	t.charts(ctx)
	t.bundles()
	t.lists()
	t.judge()
	return inventory, nil
}

// taking is an inventory in the making.
type taking struct {
	*Content
	inventory *Inventory
	held      map[string]imageimport.Held // nil if it is not known
	items     []imageimport.Item
	refused   map[string]error
	at        map[string]int // place of a reference
}

// containerdSocket is where the node's containerd listens.
const containerdSocket = "/run/k3s/containerd/containerd.sock"

// containerd asks it, if it runs, and reads its files if it does not.
func (t *taking) containerd(ctx context.Context) {
	root := filepath.Join(t.config.DataDir, "agent", "containerd")
	held, err := imageimport.HeldOffline(ctx, root)
	switch {
	case err == nil:
		t.held, t.inventory.Containerd = held, "stopped"
		return
	case errors.Is(err, fs.ErrNotExist):
		t.held, t.inventory.Containerd = map[string]imageimport.Held{}, "never ran"
		return
	case errors.Is(err, fs.ErrPermission):
		t.inventory.Containerd = fmt.Sprintf("not known: %v: run this as root", err)
		return
	}
	// Its files are locked: it runs.
	importer, closeAll, connectErr := t.importer(containerdSocket)
	if connectErr != nil {
		t.inventory.Containerd = fmt.Sprintf("not known: %v", errors.Join(connectErr, err))
		return
	}
	defer closeAll()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if held, err = importer.Held(ctx); err != nil {
		t.inventory.Containerd = fmt.Sprintf("not known: %v", err)
		return
	}
	t.held, t.inventory.Containerd = held, "running"
}

// incomplete moves the images of partial bundles whose layers are nowhere to the refused.
func (t *taking) incomplete() {
	blobs := imageimport.BlobsDir(filepath.Join(t.config.DataDir, "agent", "containerd"))
	stored := func(layer v1.Descriptor) (bool, error) { return hasBlob(blobs, layer), nil }
	t.items = slices.DeleteFunc(t.items, func(item imageimport.Item) bool {
		err := imageimport.Lacking(item, stored, t.folder.Holder)
		if err != nil {
			t.refused[item.Admitted.Name()] = err
		}
		return err != nil
	})
	for _, file := range t.folder.Files {
		if file.Err != nil {
			t.inventory.Faults = append(t.inventory.Faults, file.Err.Error())
		}
	}
	for _, missing := range t.folder.Incomplete() {
		t.inventory.Faults = append(t.inventory.Faults, fmt.Sprintf("bundle %s is not complete: %v", missing.File, missing))
	}
}

func hasBlob(dir string, desc v1.Descriptor) bool {
	info, err := os.Stat(filepath.Join(dir, desc.Digest.Hex))
	return err == nil && info.Size() == desc.Size
}

// row is that of a reference, made if need be.
func (t *taking) row(reference, why string) *NodeImage {
	at, known := t.at[reference]
	if !known {
		at = len(t.inventory.Images)
		t.at[reference] = at
		t.inventory.Images = append(t.inventory.Images, NodeImage{Reference: reference})
	}
	row := &t.inventory.Images[at]
	if why != "" && !slices.Contains(row.Why, why) {
		row.Why = append(row.Why, why)
	}
	return row
}

// system lists what the node itself needs, and takes it out of what bundles offer.
func (t *taking) system() error {
	wanted := []wantedName{{"the node's executables", func() (name.Reference, error) { return t.config.Image(config.RoleRuntime) }, config.RoleRuntime}}
	wanted = append(wanted, needs(t.config)...)
	if _, ok := t.config.Release.Image(config.RoleHelmJob); ok && t.config.Role == config.Server {
		wanted = append(wanted, wantedName{"jobs that install charts", func() (name.Reference, error) { return t.config.Image(config.RoleHelmJob) }, config.RoleHelmJob})
	}
	for _, w := range wanted {
		ref, err := w.image()
		if err != nil {
			return err
		}
		candidates, err := t.config.Candidates(w.role)
		if err != nil {
			return err
		}
		row := t.row(ref.String(), w.what)
		at := slices.IndexFunc(t.items, func(i imageimport.Item) bool { return fits(i, candidates) })
		if at >= 0 {
			t.offered(row, t.items[at])
			t.at[t.items[at].Admitted.Name()] = t.at[ref.String()]
		}
		for _, candidate := range candidates {
			t.pinned(row, candidate)
			if fault := t.refused[candidate.String()]; fault != nil && at < 0 {
				row.Fault = fault.Error()
				t.at[candidate.String()] = t.at[ref.String()]
			}
		}
		if w.role == config.RoleRuntime {
			t.staged(row, candidates)
		}
	}
	return nil
}

// pinned takes the digest that the release pins, where no bundle says one.
func (t *taking) pinned(row *NodeImage, ref name.Reference) {
	tag, ok := ref.(name.Tag)
	if !ok || row.Digest != "" {
		return
	}
	if admitted, pinned := t.policy.Pinned(tag); pinned {
		row.Digest, row.Trusted, row.Verified = admitted.Digest().String(), admitted.By(), true
	}
}

// staged tells whether the node's executables are on disk as the release has them.
func (t *taking) staged(row *NodeImage, candidates []name.Reference) {
	for _, candidate := range candidates {
		tag, ok := candidate.(name.Tag)
		if !ok {
			continue
		}
		if admitted, pinned := t.policy.Pinned(tag); pinned {
			if _, err := stage.Existing(t.config.DataDir, admitted); err == nil {
				row.State = Staged
				return
			}
		}
	}
}

func (t *taking) offered(row *NodeImage, item imageimport.Item) {
	row.Digest, row.Bundle = item.Image.Desc.Digest.String(), item.Archive.Path()
	row.Trusted, row.Verified = item.Admitted.By(), item.Admitted.Verified()
	if row.Verified {
		row.Trusted = item.Admitted.Key().String()
	}
}

// bundles lists what else bundles have.
func (t *taking) bundles() {
	for _, item := range t.items {
		if _, listed := t.at[item.Admitted.Name()]; !listed {
			t.offered(t.row(item.Admitted.Name(), "bundle"), item)
		}
	}
	for _, reference := range sortedNames(t.refused) {
		row := t.row(reference, "")
		if len(row.Why) == 0 {
			row.Why = []string{"bundle"}
			row.Fault = t.refused[reference].Error()
		}
		if row.Bundle == "" && row.Fault != "" {
			row.Bundle = t.bundleOf(reference)
		}
	}
	for _, file := range t.folder.Files {
		if file.Archive == nil || file.Archive.Format() != airgap.FormatDockerArchive {
			continue
		}
		fault := t.unverifiable(file)
		for _, image := range file.Archive.Images() {
			for _, reference := range image.Names() {
				row := t.row(reference, "bundle")
				if row.Bundle != "" {
					continue
				}
				row.Bundle, row.Trusted = file.Path, "not required"
				if fault != nil {
					row.Trusted, row.Fault = "", fault.Error()
				}
			}
		}
	}
}

func (t *taking) bundleOf(reference string) string {
	for _, file := range t.folder.Files {
		if file.Archive == nil {
			continue
		}
		for _, image := range file.Archive.Images() {
			if slices.Contains(image.Names(), reference) {
				return file.Path
			}
		}
	}
	return ""
}

func sortedNames(m map[string]error) []string {
	var out []string
	for reference := range m {
		out = append(out, reference)
	}
	slices.Sort(out)
	return out
}

// lists adds what lists in the folder ask for.
func (t *taking) lists() {
	lines, err := prepull.ReadFolder(t.folder.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.inventory.Faults = append(t.inventory.Faults, strings.Split(err.Error(), "\n")...)
	}
	for _, line := range lines {
		row := t.row(line.Ref.String(), fmt.Sprintf("list %s, line %d", filepath.Base(line.File), line.Line))
		t.pinned(row, line.Ref)
	}
}

// judge says of each image where it is.
func (t *taking) judge() {
	for n := range t.inventory.Images {
		row := &t.inventory.Images[n]
		held, has := t.held[row.Reference]
		row.Pinned = held.Pinned
		state := Absent
		switch {
		case t.held == nil:
			state = Unknown
		case has && !held.Whole:
			state = Incomplete
		case has && row.Digest != "" && held.Digest.String() != row.Digest && t.config.Verification != trust.ModeOff:
			state = Other
		case has:
			state = Present
		}
		if row.Digest == "" && has {
			row.Digest = held.Digest.String()
		}
		if row.State != Staged {
			row.State = state
		}
		there := row.State == Staged || row.State == Present
		row.Missing = !there && (row.Bundle == "" || row.Fault != "")
	}
}
