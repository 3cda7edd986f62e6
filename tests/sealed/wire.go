//go:build linux

package sealed

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxMessage bounds one message between caller, keeper and init. A command line
// with its environment is the largest.
const maxMessage = 128 << 10

// socketpair returns two connected ends that keep message boundaries and carry
// file descriptors.
func socketpair() (*os.File, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making a socket pair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "here"), os.NewFile(uintptr(fds[1]), "there"), nil
}

// dial turns one end of a socket pair into a connection and closes the file.
func dial(f *os.File) (*net.UnixConn, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("using a socket: %w", err)
	}
	return c.(*net.UnixConn), nil
}

// send writes v as one JSON message, with files attached.
func send(c *net.UnixConn, v any, files ...*os.File) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(b) > maxMessage {
		return fmt.Errorf("message of %d bytes is larger than %d", len(b), maxMessage)
	}
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		rights = unix.UnixRights(fds...)
	}
	_, _, err = c.WriteMsgUnix(b, rights, nil)
	return err
}

// receive reads one message into v and returns the files that came with it,
// which the caller closes. It fails with io.EOF when the other end is gone.
func receive(c *net.UnixConn, v any) ([]*os.File, error) {
	b := make([]byte, maxMessage)
	oob := make([]byte, 256)
	n, oobn, flags, _, err := c.ReadMsgUnix(b, oob)
	if err != nil {
		if errors.Is(err, syscall.ECONNRESET) {
			return nil, io.EOF
		}
		return nil, err
	}
	var files []*os.File
	if oobn > 0 {
		msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil {
			return nil, fmt.Errorf("reading passed files: %w", err)
		}
		for _, m := range msgs {
			fds, err := unix.ParseUnixRights(&m)
			if err != nil {
				continue
			}
			for _, fd := range fds {
				files = append(files, os.NewFile(uintptr(fd), "passed"))
			}
		}
	}
	if n == 0 {
		closeAll(files)
		return nil, io.EOF
	}
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		closeAll(files)
		return nil, errors.New("message was cut short")
	}
	if err := json.Unmarshal(b[:n], v); err != nil {
		closeAll(files)
		return nil, fmt.Errorf("reading message: %w", err)
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

// plan is what the caller tells the keeper, and the keeper tells init.
type plan struct {
	Name    string
	State   string
	Address string // with prefix length
	Gateway string
	Env     []string
	Binds   []Bind
	Cgroup  string // name of the host's cgroup in every hierarchy
	// Uplink is the name of the keeper's end of the wire; the keeper is in the
	// namespace of a switch when Switched, and joins the wire to it unless Unplugged.
	Uplink    string
	Switched  bool
	Unplugged bool
	// UplinkMAC is the hardware address of the keeper's end of the wire, which
	// stands for the gateway. Set by the keeper.
	UplinkMAC string
	// Hierarchies is how the machine mounts its cgroups. Set by the keeper.
	Hierarchies []hierarchy
}

// status is what init tells the keeper, and the keeper the caller.
type status struct {
	// Init is the process id of the host's process 1, as seen outside.
	Init  int    `json:",omitempty"`
	Ready bool   `json:",omitempty"`
	Gone  bool   `json:",omitempty"`
	Error string `json:",omitempty"`
}

// wish is what the caller tells the keeper of a host that runs.
type wish struct {
	Plug bool
}

// request asks init to run a command or, without Args, to open a connection. A
// socket for the answers comes with it; a command's stdin, stdout and stderr too.
type request struct {
	Args []string `json:",omitempty"`
	Env  []string `json:",omitempty"`
	Dir  string   `json:",omitempty"`
	TTY  bool     `json:",omitempty"` // stdin is a terminal that becomes the controlling one

	Network string `json:",omitempty"`
	Address string `json:",omitempty"`
}

// report is what init tells about a command: first that it started or why it
// did not, then how it ended.
type report struct {
	Pid    int    `json:",omitempty"` // inside
	Error  string `json:",omitempty"`
	Ended  bool   `json:",omitempty"`
	Status uint32 `json:",omitempty"` // wait status
}

// order is what the caller tells init about a running command.
type order struct {
	Signal int
}
