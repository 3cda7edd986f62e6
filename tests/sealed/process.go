//go:build linux

package sealed

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Process is one process of a host.
type Process struct {
	Pid     int    // outside
	Inside  int    // in the host; 0 in a namespace below it is impossible
	Parent  int    // outside
	Name    string // the kernel's, at most 15 bytes
	Args    []string
	RSS     int64  // bytes now
	PeakRSS int64  // bytes, the most it ever had
	Started uint64 // clock ticks since the machine started: with Pid, an identity
}

// Processes lists all processes of the host, those in containers too, but not its
// init. The host may be off: then there are none.
func (h *Host) Processes() ([]Process, error) {
	init := h.Init()
	if init == 0 {
		return nil, nil
	}
	return processesBelow(init)
}

// Find lists the processes of the host whose program's base name is name.
func (h *Host) Find(name string) ([]Process, error) {
	all, err := h.Processes()
	var found []Process
	for _, p := range all {
		// A process may have written a title over its arguments: "/bin/program role".
		if title := strings.Fields(strings.Join(p.Args, " ")); len(title) > 0 && filepath.Base(title[0]) == name {
			found = append(found, p)
		}
	}
	return found, err
}

// processesBelow lists what is in init's PID namespace or one below it. Every
// one of those is a descendant of init, or will be when its parent ends.
func processesBelow(init int) ([]Process, error) {
	all, err := processes()
	if err != nil {
		return nil, err
	}
	parents := make(map[int]int, len(all))
	for _, p := range all {
		parents[p.Pid] = p.Parent
	}
	var found []Process
	for _, p := range all {
		for up := p.Parent; up > 1; up = parents[up] {
			if up == init {
				found = append(found, p)
				break
			}
		}
	}
	return found, nil
}

// processes reads /proc. A process that ends meanwhile is left out.
func processes() ([]Process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var all []Process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if p, err := process(pid); err == nil {
			all = append(all, p)
		}
	}
	return all, nil
}

func process(pid int) (Process, error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	p := Process{Pid: pid}
	var err error
	if p.Started, err = startTime(pid); err != nil {
		return p, err
	}
	text, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return p, err
	}
	for s := bufio.NewScanner(bytes.NewReader(text)); s.Scan(); {
		key, value, _ := strings.Cut(s.Text(), ":")
		fields := strings.Fields(value)
		if len(fields) == 0 {
			continue
		}
		number, _ := strconv.ParseInt(fields[0], 10, 64)
		switch key {
		case "Name":
			p.Name = strings.TrimSpace(value)
		case "State":
			if fields[0] == "Z" {
				return p, errors.New("has ended")
			}
		case "PPid":
			p.Parent = int(number)
		case "VmHWM":
			p.PeakRSS = number << 10
		case "VmRSS":
			p.RSS = number << 10
		case "NSpid":
			if len(fields) > 1 {
				p.Inside, _ = strconv.Atoi(fields[1])
			}
		}
	}
	line, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil {
		return p, err
	}
	if line = bytes.TrimRight(line, "\x00"); len(line) > 0 {
		p.Args = strings.Split(string(line), "\x00")
	}
	return p, nil
}

// startTime is when a process started, in clock ticks since the machine did
// (field 22 of /proc/PID/stat, proc(5)).
func startTime(pid int) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The second field is a name in parentheses that may hold anything.
	i := bytes.LastIndexByte(b, ')')
	if i < 0 {
		return 0, fmt.Errorf("/proc/%d/stat: strange content", pid)
	}
	fields := strings.Fields(string(b[i+1:]))
	if len(fields) < 20 {
		return 0, fmt.Errorf("/proc/%d/stat: strange content", pid)
	}
	return strconv.ParseUint(fields[19], 10, 64)
}
