package host

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Process is a running program.
type Process struct {
	PID  int
	Name string   // the kernel's, at most 15 bytes
	Exe  string   // its file, as its own mount namespace has it; "" for what may not be seen
	Args []string // a program may have changed them
}

// String names it for a person.
func (p Process) String() string {
	name := p.Name
	if base := filepath.Base(p.Exe); p.Exe != "" && base != "." {
		name = base
	}
	if name == "" {
		return "a program that cannot be seen"
	}
	return name + " (pid " + strconv.Itoa(p.PID) + ")"
}

// Process describes a process; ok is false if there is none.
func (m Machine) Process(pid int) (p Process, ok bool) {
	dir := m.path("proc", strconv.Itoa(pid))
	name, err := os.ReadFile(filepath.Join(dir, "comm"))
	if err != nil {
		return Process{}, false
	}
	p = Process{PID: pid, Name: strings.TrimSpace(string(name))}
	if exe, err := os.Readlink(filepath.Join(dir, "exe")); err == nil {
		p.Exe = strings.TrimSuffix(exe, " (deleted)")
	}
	if args, err := os.ReadFile(filepath.Join(dir, "cmdline")); err == nil {
		p.Args = strings.Fields(strings.ReplaceAll(string(args), "\x00", " "))
	}
	return p, true
}

// Ancestry is a process, its parent, and so on up to the first.
func (m Machine) Ancestry(pid int) []Process {
	var out []Process
	for seen := map[int]bool{}; pid > 0 && !seen[pid]; pid = m.parent(pid) {
		seen[pid] = true
		p, ok := m.Process(pid)
		if !ok {
			break
		}
		out = append(out, p)
	}
	return out
}

// parent is the fourth field of proc(5)'s stat; the second may hold anything in brackets.
func (m Machine) parent(pid int) int {
	stat, err := m.read("proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0
	}
	rest := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(rest) < 2 {
		return 0
	}
	parent, _ := strconv.Atoi(rest[1])
	return parent
}

// Named finds the processes of which the kernel's name is one of those given.
func (m Machine) Named(names ...string) []Process {
	var out []Process
	for _, pid := range m.pids() {
		comm, err := m.read("proc/" + strconv.Itoa(pid) + "/comm")
		if err != nil || !slices.ContainsFunc(names, func(n string) bool { return comm == n[:min(len(n), 15)] }) {
			continue
		}
		if p, ok := m.Process(pid); ok {
			out = append(out, p)
		}
	}
	return out
}

func (m Machine) pids() []int {
	entries, err := os.ReadDir(m.path("proc"))
	if err != nil {
		return nil
	}
	var out []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			out = append(out, pid)
		}
	}
	return out
}
