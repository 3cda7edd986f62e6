//go:build linux

package sealed

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// bridge is the only device of a switch's network namespace beside the hosts' wires.
const bridge = "switch"

// Switch joins hosts by a bridge. The bridge is in a network namespace that has
// nothing else: no name, no process, no address and no route, so joined hosts
// reach each other and still nothing outside. It ends with the last of its hosts
// and this value, so also when the program is killed. Close it after its hosts.
type Switch struct {
	mu     sync.Mutex
	space  *os.File // the namespace; nil once closed
	wires  int
	joined map[netip.Addr]bool // every address that a host on it has ever had
	stop   func() bool
}

// NewSwitch makes a switch that is closed when ctx is done, or by Close.
func NewSwitch(ctx context.Context) (*Switch, error) {
	if err := Supported(); err != nil {
		return nil, err
	}
	s := &Switch{joined: map[netip.Addr]bool{}}
	err := elsewhere(func() error { return unix.Unshare(unix.CLONE_NEWNET) }, func() error {
		space, err := os.Open(threadNetwork)
		if err != nil {
			return err
		}
		if err := layBridge(); err != nil {
			return errors.Join(err, space.Close())
		}
		s.space = space
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("making a switch: %w", err)
	}
	s.stop = context.AfterFunc(ctx, func() { _ = s.shut() })
	return s, nil
}

// Close lets go of the switch. Hosts that are still on it stay joined until they end.
func (s *Switch) Close() error {
	s.stop()
	return s.shut()
}

func (s *Switch) shut() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	space := s.space
	if space == nil {
		return nil
	}
	s.space = nil
	return space.Close()
}

// layBridge makes the bridge in the network namespace of this thread.
func layBridge() error {
	// Ports would otherwise speak for themselves.
	err := os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0o644)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// Hosts find neighbours by multicast (IPv6), which must reach all of them.
	snooping := false
	b := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs(), MulticastSnooping: &snooping}
	b.Name = bridge
	if err := netlink.LinkAdd(b); err != nil {
		return fmt.Errorf("making a bridge: %w", err)
	}
	if err := netlink.LinkSetUp(b); err != nil {
		return fmt.Errorf("setting the bridge up: %w", err)
	}
	return nil
}

// threadNetwork is the network namespace of the thread that opens it.
const threadNetwork = "/proc/thread-self/ns/net"

// elsewhere runs do in the network namespace that enter leads its thread to. What
// do starts is born there.
func elsewhere(enter, do func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open(threadNetwork)
		if err != nil {
			done <- err
			return
		}
		defer home.Close()
		if err := enter(); err != nil {
			done <- fmt.Errorf("%w: entering a network namespace: %w", ErrUnsupported, err)
			return
		}
		err = do()
		if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
			// Still locked: the thread ends with this goroutine, and nobody is misled.
			done <- errors.Join(err, back)
			return
		}
		runtime.UnlockOSThread()
		done <- err
	}()
	return <-done
}

// inside runs do in the switch's namespace.
func (s *Switch) inside(do func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.space == nil {
		return errors.New("the switch is closed")
	}
	return elsewhere(func() error { return unix.Setns(int(s.space.Fd()), unix.CLONE_NEWNET) }, do)
}

// join takes note of an address and returns a name for the wire of its host. The
// wire of a host that has just ended may still be there, so no name comes twice.
func (s *Switch) join(address netip.Addr) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.joined[address] = true
	s.wires++
	return uplink + strconv.Itoa(s.wires)
}

// knows tells whether a host on the switch has had this address.
func (s *Switch) knows(address string) bool {
	a, err := netip.ParseAddr(address)
	if err != nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.joined[a]
}

// hardwareAddress is a host's for its address: locally administered, and the same
// after a reboot, because its neighbours remember it.
func hardwareAddress(address netip.Addr) net.HardwareAddr {
	b := address.As16()
	return append(net.HardwareAddr{0x02}, b[len(b)-5:]...)
}

// Unplug cuts a host off from its switch: the link stays up, every packet is lost.
// It stays so when the host is rebooted, until Plug.
func (h *Host) Unplug() error { return h.plug(false) }

// Plug joins a host to its switch again.
func (h *Host) Plug() error { return h.plug(true) }
