package serve

import (
	"io"
	"net"
	"sync"
)

// limit lets so many connections in at a time; more wait in the kernel. Unlike
// golang.org/x/net/netutil's, its connections stay what the kernel copies files to.
type limit struct {
	net.Listener
	slots  chan struct{}
	closed chan struct{}
	once   sync.Once
}

func limited(l net.Listener, n int) *limit {
	return &limit{Listener: l, slots: make(chan struct{}, n), closed: make(chan struct{})}
}

// Accept implements net.Listener.
func (l *limit) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	free := sync.OnceFunc(func() { <-l.slots })
	if t, ok := c.(*net.TCPConn); ok {
		return &tcpConn{t, free}, nil
	}
	return &otherConn{c, free}, nil
}

// Close implements net.Listener.
func (l *limit) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

type tcpConn struct {
	*net.TCPConn
	free func()
}

var _ io.ReaderFrom = (*tcpConn)(nil) // sendfile(2)

// Close implements net.Conn.
func (c *tcpConn) Close() error {
	defer c.free()
	return c.TCPConn.Close()
}

type otherConn struct {
	net.Conn
	free func()
}

// Close implements net.Conn.
func (c *otherConn) Close() error {
	defer c.free()
	return c.Conn.Close()
}
