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
	Address string
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
	if opts.State == "" {
		h.ownsState = true
		opts.State = filepath.Join(Base(), run+"-"+opts.Name)
	}
	if opts.State, err = filepath.Abs(opts.State); err != nil {
		return nil, err
	}
	if err := mkdir(filepath.Join(opts.State, "logs"), 0o755); err != nil {
		return nil, fmt.Errorf("sealed host %s: state: %w", opts.Name, err)
	}
	h.plan = plan{
		Name: opts.Name, State: opts.State, Address: opts.Address, Gateway: gateway.String(),
		Env: opts.Env, Binds: opts.Binds, Cgroup: run + "-" + opts.Name,
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
func (h *Host) boot(ctx context.Context) (err error) {
	fail := func(err error) error { return fmt.Errorf("starting sealed host %s: %w", h.plan.Name, err) }
	statusOurs, statusTheirs, err := socketpair()
	if err != nil {
		return fail(err)
	}
	defer statusTheirs.Close()
	agentOurs, agentTheirs, err := socketpair()
	if err != nil {
		statusOurs.Close()
		return fail(err)
	}
	defer agentTheirs.Close()
	p := &power{}
	if p.status, err = dial(statusOurs); err != nil {
		agentOurs.Close()
		return fail(err)
	}
	if p.agent, err = dial(agentOurs); err != nil {
		p.status.Close()
		return fail(err)
	}
	log, err := os.OpenFile(filepath.Join(h.plan.State, "logs", "keeper.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return errors.Join(fail(err), p.status.Close(), p.agent.Close())
	}
	defer log.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return errors.Join(fail(err), p.status.Close(), p.agent.Close())
	}
	defer null.Close()
	// A session of its own: an interrupt from the terminal is for the caller,
	// whose end the keeper sees and cleans up after.
	p.keeper, err = os.StartProcess("/proc/self/exe", []string{keeperName}, &os.ProcAttr{
		Dir: "/", Env: []string{},
		Files: []*os.File{null, log, log, statusTheirs, agentTheirs},
		Sys:   &syscall.SysProcAttr{Setsid: true, Cloneflags: unix.CLONE_NEWNET},
	})
	if err != nil {
		return errors.Join(fail(fmt.Errorf("%w: %w", ErrUnsupported, err)), p.status.Close(), p.agent.Close())
	}
	statusTheirs.Close()
	agentTheirs.Close()
	var answer status
	err = send(p.status, h.plan)
	if err == nil {
		_ = p.status.SetReadDeadline(time.Now().Add(startLimit))
		_, err = receive(p.status, &answer)
		_ = p.status.SetReadDeadline(time.Time{})
	}
	switch {
	case err == nil && answer.Ready:
		p.init = answer.Init
	case err == nil:
		err = errors.New(answer.Error)
	case errors.Is(err, io.EOF):
		err = errors.New("the keeper ended: does the program call sealed.Main first of all? see " + log.Name())
	}
	h.mu.Lock()
	h.power = p
	h.mu.Unlock()
	if err != nil {
		return errors.Join(fail(err), h.off())
	}
	p.stopWatch = context.AfterFunc(ctx, func() { _ = h.off() })
	return nil
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
	p.agent.Close()
	// Half a close tells the keeper; the other half carries its last words.
	_ = p.status.CloseWrite()
	_ = p.status.SetReadDeadline(time.Now().Add(closeLimit))
	var last status
	var err error
	for !last.Gone && err == nil {
		_, err = receive(p.status, &last)
	}
	p.status.Close()
	if err != nil {
		_ = p.keeper.Kill() // init's parent-death signal ends the host
	}
	_, waitErr := p.keeper.Wait()
	switch {
	case err != nil && !errors.Is(err, io.EOF):
		_, swept := Sweep()
		return errors.Join(fail(fmt.Errorf("no answer from its keeper: %w", err)), swept)
	case last.Error != "":
		return fail(errors.New(last.Error))
	case waitErr != nil:
		return fail(waitErr)
	}
	return nil
}

// Reboot cuts the power and starts the host again: every process, memory file
// system and network setting is gone, the disk is kept.
func (h *Host) Reboot(ctx context.Context) error {
	if err := h.off(); err != nil {
		return err
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
