package preflight

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/runtime/config"
	"github.com/rancher/rke2/runtime/stage"
)

// DataDir looks at whether the node can write where it must.
func DataDir(in Input) Check {
	const name = "data-dir"
	c := in.Config
	must := []string{c.DataDir, filepath.Join(c.DataDir, "data"), filepath.Join(c.DataDir, "agent"), filepath.Join(c.DataDir, "agent", "containerd")}
	may := []string{"/var/lib/kubelet", "/etc/rancher", "/run"}
	if c.Role == config.Server {
		must = append(must, filepath.Join(c.DataDir, "server"), filepath.Join(c.DataDir, "server", "db"))
	}
	check := ok(name, "%s can be written to", c.DataDir)
	var found, said []string
	look := func(dirs []string, v Verdict) {
		for _, dir := range dirs {
			err := in.Machine.Writable(dir)
			if err == nil {
				continue
			}
			var at *fs.PathError
			if errors.As(err, &at) {
				dir, err = at.Path, at.Err
			}
			check.worse(v)
			if !slices.ContainsFunc(said, func(above string) bool { return dir == above || strings.HasPrefix(dir, above+"/") }) {
				said = append(said, dir)
				found = append(found, fmt.Sprintf("%s cannot be written to: %v", dir, err))
			}
		}
	}
	look(must, Fail)
	look(may, Warn)
	if len(found) == 0 {
		return check
	}
	check.Found = strings.Join(found, "; ")
	check.ToDo = "mount it read-write (a disk with errors turns read-only: see dmesg), or set data-dir to a folder on another disk"
	if check.Verdict == Warn {
		check.ToDo = "mount it read-write, unless this node's settings keep what is there elsewhere"
	}
	return check
}

// expands is how much larger than its compressed layers an image is on disk: programs
// of Go in zstd take 3.2 to 4 times their size.
const expands = 4

// bill is what a start is going to write, in bytes.
type bill struct {
	stage  int64 // compressed layers that are staged
	blobs  int64 // that go into containerd's store as they are
	unpack int64 // compressed layers that containerd unpacks
	// guess is the size of archives that are compressed as a whole, and hold something
	// new. What that is takes reading them to their end, which is the import's to do.
	guess int64
}

func (b bill) add(o bill) bill {
	return bill{b.stage + o.stage, b.blobs + o.blobs, b.unpack + o.unpack, b.guess + o.guess}
}

// least is what will be written for certain: nothing gets smaller by unpacking.
func (b bill) least() int64 { return b.stage + b.blobs + b.unpack }

// likely is what will be written by experience.
func (b bill) likely() int64 {
	return expands*(b.stage+b.unpack+b.guess) + b.blobs + b.guess
}

// Space compares what staging and import are going to write with what is free. What is
// in place already is not counted.
func Space(in Input) Check {
	const name = "space"
	staging, importing := bills(in)
	check := Check{Name: name, Verdict: OK}
	var found, todo []string
	type account struct {
		bill
		dir string
	}
	accounts := []account{
		{staging, filepath.Join(in.Config.DataDir, "data")},
		{importing, filepath.Join(in.Config.DataDir, "agent", "containerd")},
	}
	for i, a := range accounts {
		disk, err := in.Machine.Disk(a.dir)
		if err != nil {
			check.worse(Warn)
			found = append(found, err.Error())
			continue
		}
		if i == 0 {
			if other, err := in.Machine.Disk(accounts[1].dir); err == nil && other.ID == disk.ID {
				accounts[1].bill = a.add(accounts[1].bill)
				continue
			}
		}
		needs := fmt.Sprintf("%s of %s are free at %s", Size(disk.Free), Size(disk.Total), disk.Path)
		if a.likely() > 0 {
			needs += fmt.Sprintf(", about %s are needed (%s to stage, %s of images to store, %s to unpack)",
				Size(a.likely()), Size(expands*a.stage), Size(a.blobs+a.guess), Size(expands*(a.unpack+a.guess)))
		}
		found = append(found, needs)
		switch left := disk.Available - a.likely(); {
		case disk.Inodes > 0 && disk.FreeInodes == 0:
			check.worse(Fail)
			todo = append(todo, "no inode is free: remove files from that disk")
		case disk.Free < a.least():
			check.worse(Fail)
			todo = append(todo, fmt.Sprintf("make space: %s are missing", Size(a.likely()-disk.Free)))
		case disk.Free < a.likely():
			check.worse(Warn)
			todo = append(todo, fmt.Sprintf("make space: it may not do, by %s", Size(a.likely()-disk.Free)))
		case left < disk.Total/evicts:
			check.worse(Warn)
			todo = append(todo, fmt.Sprintf("make space: with less than %d %% free the kubelet removes images and evicts pods", 100/evicts))
		case disk.Inodes > 0 && disk.FreeInodes < disk.Inodes/evicts:
			check.worse(Warn)
			todo = append(todo, fmt.Sprintf("remove files: %d of %d inodes are free", disk.FreeInodes, disk.Inodes))
		}
	}
	check.Found, check.ToDo = strings.Join(found, "; "), strings.Join(todo, "; ")
	return check
}

// evicts: the kubelet evicts below a twentieth.
const evicts = 20

// bills works out what is to be staged, and what containerd lacks of the bundles' images.
func bills(in Input) (staging, importing bill) {
	counted := map[v1.Hash]bool{}
	staged := runtimeNames(in)
	for _, file := range in.Folder.Files {
		a := file.Archive
		if a == nil || a.Format() == airgap.FormatDockerArchive {
			continue
		}
		if a.Compression() != "none" {
			if slices.ContainsFunc(a.Images(), func(i airgap.Image) bool { return here(i) && !storedFile(in, i.Desc) }) {
				importing.guess += a.Size()
			}
			continue
		}
		for _, image := range a.Images() {
			if !here(image) || counted[image.Desc.Digest] {
				continue
			}
			isRuntime := staged[image.Desc.Digest]
			stored := storedFile(in, image.Desc)
			if stored && !isRuntime {
				continue // its manifest is written last
			}
			admitted, err := in.Admit(a, image)
			if err != nil {
				continue // it is not going to be imported
			}
			counted[image.Desc.Digest] = true
			layers, config := contents(a, image)
			if isRuntime && !isStaged(in, stage.Key(admitted)) {
				for _, l := range layers {
					staging.stage += l.Size
				}
			}
			if stored {
				continue
			}
			for _, l := range append(layers, config) {
				if counted[l.Digest] || storedFile(in, l) {
					continue
				}
				counted[l.Digest] = true
				importing.blobs += l.Size
				if l.Digest != config.Digest {
					importing.unpack += l.Size
				}
			}
		}
	}
	return staging, importing
}

// contents are an image's layers and its configuration, as its manifest lists them.
func contents(a *airgap.Archive, image airgap.Image) (layers []v1.Descriptor, config v1.Descriptor) {
	m, _, err := a.Manifest(image.Desc.Digest)
	if err != nil {
		return nil, v1.Descriptor{} // whoever reads it says so
	}
	return m.Layers, m.Config
}

// runtimeNames are the digests of images in the bundles that may be the runtime.
func runtimeNames(in Input) map[v1.Hash]bool {
	out := map[v1.Hash]bool{}
	candidates, err := in.Config.Candidates(config.RoleRuntime)
	if err != nil {
		return out
	}
	found, err := in.Folder.FindAll(candidates...)
	if err != nil || len(found) == 0 {
		return out
	}
	out[found[0].Image.Desc.Digest] = true
	return out
}

func isStaged(in Input, key string) bool {
	_, err := os.Stat(filepath.Join(in.Config.DataDir, "data", key, "bin"))
	return err == nil
}

// storedFile tells whether containerd has a blob, running or not.
func storedFile(in Input, d v1.Descriptor) bool {
	info, err := os.Stat(filepath.Join(store(in.Config), d.Digest.Hex))
	return err == nil && info.Size() == d.Size
}

// store is the folder where containerd keeps blobs by digest.
func store(c config.Config) string {
	return filepath.Join(c.DataDir, "agent", "containerd", "io.containerd.content.v1.content", "blobs", "sha256")
}

// Size is a number of bytes for people.
func Size(n int64) string {
	const unit = 1000
	if n < unit {
		return fmt.Sprintf("%d B", max(n, 0))
	}
	div, exp := int64(unit), 0
	for m := n / unit; m >= unit && exp < 4; m /= unit {
		div *= unit
		exp++
	}
	return fmt.Sprintf("%.1f %cB", float64(n)/float64(div), "kMGTP"[exp])
}
