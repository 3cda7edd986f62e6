package host

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
)

// DefaultRoutes names the interfaces of the machine's default routes, of IPv4 and of IPv6
// (proc(5), net/route and net/ipv6_route).
func (m Machine) DefaultRoutes() (four, six []string, err error) {
	const (
		up     = 0x1
		reject = 0x200
	)
	read := func(table string, is func(f []string) (device, flags string, ok bool)) ([]string, error) {
		file, err := os.Open(m.path(table))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil // the kernel has no such addresses
		}
		if err != nil {
			return nil, fmt.Errorf("reading the routes: %w", err)
		}
		defer file.Close()
		var out []string
		lines := bufio.NewScanner(file)
		for lines.Scan() {
			device, flags, ok := is(strings.Fields(lines.Text()))
			if !ok || device == "lo" {
				continue
			}
			if bits, err := strconv.ParseUint(flags, 16, 64); err == nil && bits&up != 0 && bits&reject == 0 {
				out = append(out, device)
			}
		}
		return out, lines.Err()
	}
	four, err = read("proc/self/net/route", func(f []string) (string, string, bool) {
		if len(f) < 8 || f[1] != "00000000" || f[7] != "00000000" {
			return "", "", false
		}
		return f[0], f[3], true
	})
	if err != nil {
		return nil, nil, err
	}
	six, err = read("proc/self/net/ipv6_route", func(f []string) (string, string, bool) {
		if len(f) < 10 || strings.Trim(f[0], "0") != "" || f[1] != "00" {
			return "", "", false
		}
		return f[9], f[8], true
	})
	return four, six, err
}
