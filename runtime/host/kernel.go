package host

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"os"
	"path"
	"strings"
)

// Presence says how a machine has a feature of the kernel.
type Presence string

// A feature is in use or built in, in a module that is loaded when it is needed, or not
// there. Unknown is a machine that does not tell.
const (
	Present   Presence = "present"
	Loadable  Presence = "loadable"
	Missing   Presence = "missing"
	Uncertain Presence = "uncertain"
)

// Feature is something of the kernel: by the module that has it, the option that it is
// built with, and a file that is there when it is at work.
type Feature struct {
	Module string
	Option string // CONFIG_… of the kernel's configuration; may be ""
	File   string // below the root; may be ""
	FS     string // the name of a file system; may be ""
}

// Kernel is what a machine's kernel has.
type Kernel struct {
	Release    string
	modules    map[string]Presence
	config     map[string]bool // nil if the kernel does not tell
	modulesDir bool
	m          Machine
}

// Filesystem tells whether the machine can mount a file system without loading a module.
func (m Machine) Filesystem(name string) bool {
	for _, line := range m.lines("proc/filesystems") {
		if f := strings.Fields(line); len(f) > 0 && f[len(f)-1] == name {
			return true
		}
	}
	return false
}

// Kernel reads what the machine tells about its kernel: what is loaded, what is built in
// and what could be loaded. Nothing is loaded for it.
func (m Machine) Kernel() Kernel {
	k := Kernel{m: m, modules: map[string]Presence{}}
	k.Release, _ = m.read("proc/sys/kernel/osrelease")
	for _, lib := range []string{"lib/modules", "usr/lib/modules"} {
		dir := path.Join(lib, k.Release)
		for _, line := range m.lines(path.Join(dir, "modules.dep")) {
			k.modulesDir = true
			file, _, _ := strings.Cut(line, ":")
			k.modules[moduleName(file)] = Loadable
		}
		for _, line := range m.lines(path.Join(dir, "modules.builtin")) {
			k.modulesDir = true
			k.modules[moduleName(line)] = Present
		}
	}
	for _, line := range m.lines("proc/modules") {
		if f := strings.Fields(line); len(f) > 0 {
			k.modules[f[0]] = Present
		}
	}
	k.config = m.kernelConfig()
	return k
}

// moduleName is the kernel's name of a module file: net/bridge/br_netfilter.ko.xz.
func moduleName(file string) string {
	base, _, _ := strings.Cut(path.Base(strings.TrimSpace(file)), ".ko")
	return strings.ReplaceAll(base, "-", "_")
}

// kernelConfig is what the running kernel says that it was built with: true for built in.
func (m Machine) kernelConfig() map[string]bool {
	raw, err := os.ReadFile(m.path("proc/config.gz"))
	if err != nil {
		return nil
	}
	zip, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		return nil
	}
	out := map[string]bool{}
	for lines := bufio.NewScanner(zip); lines.Scan(); {
		if option, value, ok := strings.Cut(lines.Text(), "="); ok && (value == "y" || value == "m") {
			out[option] = value == "y"
		}
	}
	return out
}

func (m Machine) lines(file string) []string {
	text, err := m.read(file)
	if err != nil || text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}

// Has tells how the kernel has a feature.
func (k Kernel) Has(f Feature) Presence {
	if f.FS != "" && k.m.Filesystem(f.FS) || f.File != "" && k.m.Exists(f.File) || k.m.Exists("sys/module/"+f.Module) {
		return Present
	}
	if p, ok := k.modules[f.Module]; ok {
		return p
	}
	if built, ok := k.config[f.Option]; ok && built {
		return Present
	}
	switch {
	case f.FS != "" && !k.modulesDir:
		return Missing // all file systems are listed, and none can be loaded
	case k.modulesDir, k.config != nil:
		return Missing
	}
	return Uncertain
}
