package host

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Listener is a TCP socket that waits for connections.
type Listener struct {
	At    netip.AddrPort
	inode string
}

// Listeners reads the machine's listening TCP sockets (proc(5), net/tcp and net/tcp6).
func (m Machine) Listeners() ([]Listener, error) {
	var out []Listener
	for _, table := range []string{"proc/self/net/tcp", "proc/self/net/tcp6"} {
		file, err := os.Open(m.path(table))
		if errors.Is(err, fs.ErrNotExist) && table != "proc/self/net/tcp" {
			continue // no IPv6
		}
		if err != nil {
			return nil, fmt.Errorf("listing listening sockets: %w", err)
		}
		found, err := listeners(file)
		if err := errors.Join(err, file.Close()); err != nil {
			return nil, fmt.Errorf("listing listening sockets: %s: %w", table, err)
		}
		out = append(out, found...)
	}
	return out, nil
}

func listeners(file *os.File) ([]Listener, error) {
	const (
		listening = "0A" // TCP_LISTEN
		local     = 1
		state     = 3
		inode     = 9
	)
	var out []Listener
	for lines := bufio.NewScanner(file); ; {
		if !lines.Scan() {
			return out, lines.Err()
		}
		f := strings.Fields(lines.Text())
		if len(f) <= inode || f[state] != listening {
			continue
		}
		at, err := socketAddress(f[local])
		if err != nil {
			return nil, err
		}
		out = append(out, Listener{At: at, inode: f[inode]})
	}
}

// socketAddress reads ADDRESS:PORT in hex: the address as 32-bit words in the order of
// bytes that the processor has, which is little endian wherever this runs.
func socketAddress(s string) (netip.AddrPort, error) {
	address, port, _ := strings.Cut(s, ":")
	raw, err := hex.DecodeString(address)
	if err != nil || len(raw)%4 != 0 {
		return netip.AddrPort{}, fmt.Errorf("the address %q is not understood", s)
	}
	for word := range slices.Chunk(raw, 4) {
		slices.Reverse(word)
	}
	ip, ok := netip.AddrFromSlice(raw)
	number, err := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil {
		return netip.AddrPort{}, fmt.Errorf("the address %q is not understood", s)
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(number)), nil
}

// Owners finds the process that holds each listener, as far as it may be seen. It looks
// at every process, so it is only asked about listeners that are in the way.
func (m Machine) Owners(of []Listener) map[Listener]Process {
	wanted := map[string][]Listener{}
	for _, l := range of {
		link := "socket:[" + l.inode + "]"
		wanted[link] = append(wanted[link], l)
	}
	out := map[Listener]Process{}
	for _, pid := range m.pids() {
		if len(out) == len(of) {
			break
		}
		dir := m.path("proc", strconv.Itoa(pid), "fd")
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue // it ended, or is another user's
		}
		for _, e := range entries {
			link, err := os.Readlink(filepath.Join(dir, e.Name()))
			if err != nil || wanted[link] == nil {
				continue
			}
			p, ok := m.Process(pid)
			for _, l := range wanted[link] {
				// Sockets are inherited: the first that has one made it, in most cases.
				if _, known := out[l]; ok && !known {
					out[l] = p
				}
			}
		}
	}
	return out
}
