//go:build linux

package sealed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Limits on the host's own steps. They are far above what a busy machine needs.
const (
	startLimit = 30 * time.Second
	closeLimit = 60 * time.Second
)

// DefaultAddress is a host's address when none is asked for, in the network that
// is reserved for documentation (RFC 5737, TEST-NET-2).
const DefaultAddress = "198.51.100.10/24"

// Options say what host to make. The zero value but for Name is a good host.
type Options struct {
	// Name is the host name: lower-case letters, digits and dashes.
	Name string
	// State is the directory that holds the host's disk and logs. It must be on
	// a file system that overlayfs can write to. The host keeps it: a new host
	// with the same State is the same machine after a power cut. Empty means a
	// new directory under [Base] that Close removes.
	State string
	// Address is the host's own, with its prefix length. Empty: [DefaultAddress].
	// The network's first address stands for the gateway.
	Address string
	// Switch joins the host to others, each with its own Address. Nil: it is alone.
	Switch *Switch
	// Env is added to the environment of every command.
	Env []string
	// Binds are files and directories of the machine that the host sees.
	Binds []Bind
}

// Bind shows a file or directory of the machine inside the host, read-only
// unless Writable.
type Bind struct {
	Source, Target string
	Writable       bool
}

// Host is a running sealed host. Its methods may be called from any goroutine.
type Host struct {
	opts      Options
	plan      plan
	ownsState bool

	mu    sync.Mutex
	power *power // nil when off
}

// power is what exists only while a host runs.
type power struct {
	keeper    *os.Process
	status    *net.UnixConn
	agent     *net.UnixConn
	agentMu   sync.Mutex
	init      int
	stopWatch func() bool
}

var validName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)

// Supported says, with an error that wraps [ErrUnsupported], why this machine
// can't hold a host; nil if it can as far as can be seen.
func Supported() error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("%w: not root", ErrUnsupported)
	}
	if _, err := hierarchies(); err != nil {
		return err
	}
	return nil
}

// makeState makes a directory of its own for a host's state.
func makeState(prefix string) (string, error) {
	if err := mkdir(Base(), 0o755); err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp(Base(), prefix)
	if err != nil {
		return "", err
	}
	return dir, os.Chmod(dir, 0o755)
}

// New makes a host and starts it. When ctx is done the host ends as by Close,
// which must be called all the same.
func New(ctx context.Context, opts Options) (*Host, error) {
	if !validName.MatchString(opts.Name) {
		return nil, fmt.Errorf("sealed host name %q: want lower-case letters, digits and dashes", opts.Name)
	}
	if err := Supported(); err != nil {
		return nil, err
	}
	if opts.Address == "" {
		opts.Address = DefaultAddress
	}
	address, err := netip.ParsePrefix(opts.Address)
	if err != nil {
		return nil, fmt.Errorf("sealed host %s: address: %w", opts.Name, err)
	}
	gateway, err := gatewayOf(address)
	if err != nil {
		return nil, fmt.Errorf("sealed host %s: address %s: %w", opts.Name, address, err)
	}
	run, err := thisRun()
	if err != nil {
		return nil, err
	}
	h := &Host{opts: opts}
	cgroup := run + "-" + opts.Name
	if opts.State == "" {
		h.ownsState = true
		// Tests that run side by side may use the same names.
		if opts.State, err = makeState(cgroup + "-"); err != nil {
			return nil, fmt.Errorf("sealed host %s: state: %w", opts.Name, err)
		}
		cgroup = filepath.Base(opts.State)
	}
	if opts.State, err = filepath.Abs(opts.State); err != nil {
		return nil, err
	}
	if err := mkdir(filepath.Join(opts.State, "logs"), 0o755); err != nil {
		return nil, fmt.Errorf("sealed host %s: state: %w", opts.Name, err)
	}
	h.plan = plan{
		Name: opts.Name, State: opts.State, Address: opts.Address, Gateway: gateway.String(),
		Env: opts.Env, Binds: opts.Binds, Cgroup: cgroup,
	}
	if err := h.boot(ctx); err != nil {
		if h.ownsState {
			err = errors.Join(err, os.RemoveAll(opts.State))
		}
		return nil, err
	}
	return h, nil
}

// boot starts the keeper and waits for the host to be ready.
func (h *Host) boot(ctx context.Context) error {
	h.mu.Lock()
	h.plan.Uplink = uplink
	if sw := h.opts.Switch; sw != nil {
		h.plan.Switched = true
		h.plan.Uplink = sw.join(netip.MustParsePrefix(h.plan.Address).Addr())
	}
	h.mu.Unlock()
	p, err := h.startKeeper()
	if err == nil {
		h.mu.Lock()
		h.power = p
		h.mu.Unlock()
		if err = h.handOver(p); err != nil {
			err = errors.Join(err, h.off())
		}
	}
	if err != nil {
		return fmt.Errorf("starting sealed host %s: %w", h.plan.Name, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = h.off() })
	h.mu.Lock()
	p.stopWatch = stop
	h.mu.Unlock()
	return nil
}

// startKeeper runs this program again as the keeper, with a socket on which it
// says how the host is, and one that it hands to init for commands.
func (h *Host) startKeeper() (_ *power, err error) {
	var files []*os.File // that the keeper gets
	defer func() { closeAll(files) }()
	p := &power{}
	defer func() {
		if err != nil && p.status != nil {
			_ = p.status.Close()
		}
		if err != nil && p.agent != nil {
			_ = p.agent.Close()
		}
	}()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	files = append(files, null)
	log, err := os.OpenFile(h.LogFile("keeper"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	files = append(files, log)
	for _, conn := range []**net.UnixConn{&p.status, &p.agent} {
		ours, theirs, err := socketpair()
		if err != nil {
			return nil, err
		}
		files = append(files, theirs)
		if *conn, err = dial(ours); err != nil {
			return nil, err
		}
	}
	// A session of its own: an interrupt from the terminal is for the caller,
	// whose end the keeper sees and cleans up after.
	attr := &os.ProcAttr{
		Dir: "/", Env: []string{},
		Files: []*os.File{null, log, log, files[2], files[3]},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	}
	start := func() (err error) {
		p.keeper, err = os.StartProcess("/proc/self/exe", []string{keeperName}, attr)
		return err
	}
	if h.opts.Switch != nil {
		err = h.opts.Switch.inside(start)
	} else {
		attr.Sys.Cloneflags = unix.CLONE_NEWNET
		err = start()
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	return p, nil
}

// handOver gives the keeper its plan and waits for it to be done.
func (h *Host) handOver(p *power) error {
	h.mu.Lock()
	plan := h.plan
	h.mu.Unlock()
	if err := send(p.status, plan); err != nil {
		return err
	}
	if err := p.status.SetReadDeadline(time.Now().Add(startLimit)); err != nil {
		return err
	}
	var answer status
	_, err := receive(p.status, &answer)
	switch {
	case errors.Is(err, io.EOF):
		return fmt.Errorf("the keeper ended: does the program call sealed.Main first of all? see %s", h.LogFile("keeper"))
	case err != nil:
		return err
	case !answer.Ready:
		return errors.New(answer.Error)
	}
	h.mu.Lock()
	p.init = answer.Init
	h.mu.Unlock()
	return p.status.SetReadDeadline(time.Time{})
}

// off ends the host: every process is killed, as when the power fails.
func (h *Host) off() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.power
	if p == nil {
		return nil
	}
	h.power = nil
	if p.stopWatch != nil {
		p.stopWatch()
	}
	fail := func(err error) error { return fmt.Errorf("ending sealed host %s: %w", h.plan.Name, err) }
	_ = p.agent.Close()
	// Half a close tells the keeper; the other half carries its last words.
	_ = p.status.CloseWrite()
	_ = p.status.SetReadDeadline(time.Now().Add(closeLimit))
	var last status
	var err error
	for !last.Gone && err == nil {
		_, err = receive(p.status, &last)
	}
	_ = p.status.Close()
	if err != nil {
		_ = p.keeper.Kill() // init's parent-death signal ends the host
	}
	_, waitErr := p.keeper.Wait()
	switch {
	case last.Error != "":
		return fail(errors.New(last.Error))
	case last.Gone && waitErr == nil:
		return nil
	case !p.ready() && errors.Is(err, io.EOF):
		return nil // it said why and left before
	}
	// What the keeper did not do: the host has ended with it.
	_, cleared := removeCgroups(func(name string) bool { return name == h.plan.Cgroup })
	return errors.Join(fail(fmt.Errorf("its keeper died: %w", errors.Join(err, waitErr))), cleared)
}

// ready is false for a host that did not come up.
func (p *power) ready() bool { return p.init != 0 }

// plug joins the host to its switch, or cuts it off, now and at later boots.
func (h *Host) plug(in bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.opts.Switch == nil {
		return fmt.Errorf("sealed host %s is on no switch", h.plan.Name)
	}
	h.plan.Unplugged = !in
	p := h.power
	if p == nil {
		return nil
	}
	fail := func(err error) error { return fmt.Errorf("plugging sealed host %s: %w", h.plan.Name, err) }
	if err := send(p.status, wish{Plug: in}); err != nil {
		return fail(err)
	}
	if err := p.status.SetReadDeadline(time.Now().Add(startLimit)); err != nil {
		return fail(err)
	}
	var answer status
	if _, err := receive(p.status, &answer); err != nil {
		return fail(err)
	}
	if answer.Error != "" {
		return fail(errors.New(answer.Error))
	}
	return p.status.SetReadDeadline(time.Time{})
}

// Reboot cuts the power and starts the host again: every process is gone at once,
// every memory file system and network setting too, the disk is kept. Unlike in a
// real power cut the disk has all that was written, also what was not yet synced.
func (h *Host) Reboot(ctx context.Context) error {
	if err := h.PowerOff(); err != nil {
		return err
	}
	return h.PowerOn(ctx)
}

// PowerOff is the first half of [Host.Reboot].
func (h *Host) PowerOff() error { return h.off() }

// PowerOn starts a host that is off.
func (h *Host) PowerOn(ctx context.Context) error {
	if h.Init() != 0 {
		return fmt.Errorf("sealed host %s is on", h.plan.Name)
	}
	return h.boot(ctx)
}

// Close ends the host and removes what it made, except a State that was given.
// It may be called more than once.
func (h *Host) Close() error {
	err := h.off()
	if h.ownsState {
		err = errors.Join(err, os.RemoveAll(h.plan.State))
	}
	return err
}

// Name is the host name, Address its own IP address.
func (h *Host) Name() string { return h.plan.Name }

// Address is the host's IP address.
func (h *Host) Address() string { return netip.MustParsePrefix(h.plan.Address).Addr().String() }

// State is the directory that holds the disk and logs of the host.
func (h *Host) State() string { return h.plan.State }

// Disk maps a path on the host's persistent disk to the path that the machine
// knows it by, whether the host runs or not. It does not reach /usr, /etc and
// other layered directories; [Host.Path] does while the host runs.
func (h *Host) Disk(path string) string { return filepath.Join(disk(h.plan.State), path) }

// Path maps a path of the running host to one that this process can open. An
// absolute symlink on the way leads outside: resolve those by a command inside.
func (h *Host) Path(path string) string {
	return filepath.Join("/proc", strconv.Itoa(h.Init()), "root", path)
}

// Init is the process id of the host's process 1 as this process sees it, or 0
// when the host is off.
func (h *Host) Init() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.power == nil {
		return 0
	}
	return h.power.init
}

// LogFile is the path, outside, of the log that [Host.Start] writes under name.
func (h *Host) LogFile(name string) string {
	return filepath.Join(h.plan.State, "logs", name+".log")
}

func (h *Host) outsideLog() string { return h.LogFile("outside") }
