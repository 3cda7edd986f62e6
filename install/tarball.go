package install

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// binary places a node binary, its archive with scripts and units, its SBOM and provenance.
func (l *layouter) binary(_ context.Context, p v1.Platform) ([]string, error) {
	name := "rke2." + p.OS + "-" + p.Architecture
	file := filepath.Join(l.Dist, name)
	if p.Architecture == l.Host {
		file = filepath.Join(l.Dist, "rke2")
	}
	if err := l.checkBinary(file, p); err != nil {
		return nil, err
	}
	licence, err := os.ReadFile(l.Licence)
	if err != nil {
		return nil, err
	}
	// Not a link: the linker writes into the file that is there.
	if err := l.copy(file, name, 0o755); err != nil {
		return nil, err
	}
	binary := filepath.Join(l.dir, name)
	err = l.write(name+".tar.gz", 0o644, func(w io.Writer) error { return writeTarball(w, binary, licence, l.Epoch) })
	if err != nil {
		return nil, err
	}
	said, err := l.Describe(file, p, l.made[name].SHA256)
	if err != nil {
		return nil, fmt.Errorf("describing %s: %w", name, err)
	}
	return []string{name, name + ".tar.gz", name + ".spdx.json", name + ".provenance.json"},
		errors.Join(l.bytes(name+".spdx.json", said.SBOM, 0o644), l.bytes(name+".provenance.json", said.Provenance, 0o644))
}

// writeTarball writes the archive that install.sh, and RKE2's own installer, unpack below
// a prefix such as /usr/local. It depends on nothing but its arguments' content.
func writeTarball(w io.Writer, binary string, licence []byte, epoch time.Time) error {
	z, err := gzip.NewWriterLevel(w, gzip.BestCompression)
	if err != nil {
		return err
	}
	t := tarball{tar.NewWriter(z), epoch.UTC().Truncate(time.Second)}
	steps := []func() error{
		func() error { return t.folder("bin/") },
		func() error { return t.program("bin/rke2", binary) },
		func() error { return t.file("bin/rke2-killall.sh", 0o755, killallScript) },
		func() error { return t.file("bin/rke2-uninstall.sh", 0o755, uninstallScript) },
		func() error { return t.folder("lib/") },
		func() error { return t.folder("lib/systemd/") },
		func() error { return t.folder("lib/systemd/system/") },
		func() error { return t.file("lib/systemd/system/rke2-agent.env", 0o644, agentEnv) },
		func() error { return t.file("lib/systemd/system/rke2-agent.service", 0o644, agentUnit) },
		func() error { return t.file("lib/systemd/system/rke2-server.env", 0o644, serverEnv) },
		func() error { return t.file("lib/systemd/system/rke2-server.service", 0o644, serverUnit) },
		func() error { return t.folder("share/") },
		func() error { return t.folder("share/rke2/") },
		func() error { return t.file("share/rke2/LICENSE.txt", 0o644, licence) },
		func() error { return t.file("share/rke2/rke2-cis-sysctl.conf", 0o644, sysctls) },
		t.w.Close,
		z.Close,
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

type tarball struct {
	w     *tar.Writer
	epoch time.Time
}

// header is of an entry that belongs to root, by number and by name.
func (t tarball) header(kind byte, name string, mode fs.FileMode, size int64) error {
	return t.w.WriteHeader(&tar.Header{
		Typeflag: kind, Name: name, Mode: int64(mode), Size: size, ModTime: t.epoch,
		Uname: "root", Gname: "root", Format: tar.FormatUSTAR,
	})
}

func (t tarball) folder(name string) error { return t.header(tar.TypeDir, name, 0o755, 0) }

func (t tarball) file(name string, mode fs.FileMode, content []byte) error {
	if err := t.header(tar.TypeReg, name, mode, int64(len(content))); err != nil {
		return err
	}
	_, err := io.Copy(t.w, bytes.NewReader(content))
	return err
}

func (t tarball) program(name, from string) (err error) {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if err := t.header(tar.TypeReg, name, 0o755, info.Size()); err != nil {
		return err
	}
	_, err = io.Copy(t.w, f)
	return err
}
