//go:build linux

package sealed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// dialLimit bounds a connection attempt inside the host.
const dialLimit = 10 * time.Second

// DialContext connects to an address inside the host, as a process of the host
// would: init opens the connection and hands it out. It fits http.Transport and
// client-go.
func (h *Host) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	fail := func(err error) (net.Conn, error) {
		return nil, fmt.Errorf("dialling %s on sealed host %s: %w", address, h.plan.Name, err)
	}
	ours, theirs, err := socketpair()
	if err != nil {
		return fail(err)
	}
	defer theirs.Close()
	conn, err := dial(ours)
	if err != nil {
		return fail(err)
	}
	defer conn.Close()
	if err := h.ask(request{Network: network, Address: address}, []*os.File{theirs}); err != nil {
		return fail(err)
	}
	_ = theirs.Close() // init has it
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Now()) })
	defer stop()
	var r report
	files, err := receive(conn, &r)
	defer closeAll(files)
	switch {
	case ctx.Err() != nil:
		return fail(context.Cause(ctx))
	case errors.Is(err, io.EOF):
		return fail(errors.New("the host is gone"))
	case err != nil:
		return fail(err)
	case r.Error != "":
		return fail(errors.New(r.Error))
	case len(files) != 1:
		return fail(errors.New("init sent no connection"))
	}
	c, err := net.FileConn(files[0])
	if err != nil {
		return fail(err)
	}
	return c, nil
}

// connect is init's part of [Host.DialContext].
func connect(conn *net.UnixConn, req request) {
	defer conn.Close()
	d := net.Dialer{Timeout: dialLimit}
	c, err := d.Dial(req.Network, req.Address)
	if err != nil {
		_ = send(conn, report{Error: err.Error()})
		return
	}
	defer c.Close()
	filer, ok := c.(interface{ File() (*os.File, error) })
	if !ok {
		_ = send(conn, report{Error: "network " + req.Network + " has no file descriptors"})
		return
	}
	f, err := filer.File()
	if err != nil {
		_ = send(conn, report{Error: err.Error()})
		return
	}
	defer f.Close()
	_ = send(conn, report{}, f)
}
