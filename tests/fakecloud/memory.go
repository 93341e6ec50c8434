package fakecloud

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
)

// maxPort is the highest port of TCP. The ports of clouds in memory are above it, so that no such
// address can be one of TCP.
const maxPort = 65535

var (
	memoryPort      atomic.Int64
	memoryListeners sync.Map // *memoryListener by its address
)

// Dial connects to a cloud in memory (Options.InMemory) by the address in its URL, and to every
// other address as net.Dialer does.
func Dial(ctx context.Context, network, address string) (net.Conn, error) {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	if n, err := strconv.Atoi(port); err != nil || n <= maxPort {
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}
	l, ok := memoryListeners.Load(address)
	if !ok {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: memoryAddress(address), Err: syscall.ECONNREFUSED}
	}
	return l.(*memoryListener).dial(ctx, network) //nolint:forcetypeassert // the map has no other type
}

// memoryAddress is the address of a cloud in memory. It is one of the loopback interface, for which
// no client uses a proxy.
type memoryAddress string

func newMemoryAddress() string { return fmt.Sprintf("127.0.0.1:%d", maxPort+memoryPort.Add(1)) }

// Network implements net.Addr.
func (memoryAddress) Network() string { return "memory" }

// String implements net.Addr.
func (a memoryAddress) String() string { return string(a) }

// memoryListener is a net.Listener for Dial.
type memoryListener struct {
	address memoryAddress
	conns   chan net.Conn
	closed  chan struct{}
	close   sync.Once
}

func listenInMemory(address string) *memoryListener {
	l := &memoryListener{address: memoryAddress(address), conns: make(chan net.Conn), closed: make(chan struct{})}
	memoryListeners.Store(address, l)
	return l
}

func (l *memoryListener) dial(ctx context.Context, network string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	isReset := new(atomic.Bool)
	var err error
	select {
	case l.conns <- &memoryConn{Conn: theirs, isReset: isReset}:
		return &memoryConn{Conn: ours, isReset: isReset}, nil
	case <-l.closed:
		err = syscall.ECONNREFUSED
	case <-ctx.Done():
		err = ctx.Err()
	}
	return nil, &net.OpError{Op: "dial", Net: network, Addr: l.address, Err: err}
}

// Accept implements net.Listener.
func (l *memoryListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *memoryListener) Close() error {
	l.close.Do(func() {
		memoryListeners.CompareAndDelete(l.address.String(), l)
		close(l.closed)
	})
	return nil
}

// Addr implements net.Listener.
func (l *memoryListener) Addr() net.Addr { return l.address }

// memoryConn is one end of a pipe. Its errors are those of TCP.
type memoryConn struct {
	net.Conn

	isReset *atomic.Bool // shared by both ends
}

// Read implements net.Conn.
func (c *memoryConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if errors.Is(err, io.EOF) && c.isReset.Load() {
		return n, &net.OpError{Op: "read", Net: "memory", Err: syscall.ECONNRESET}
	}
	return n, err //nolint:wrapcheck // the caller is net/http, as that of a net.Conn
}

// Write implements net.Conn.
func (c *memoryConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if errors.Is(err, io.ErrClosedPipe) {
		return n, &net.OpError{Op: "write", Net: "memory", Err: syscall.EPIPE}
	}
	return n, err //nolint:wrapcheck // the caller is net/http, as that of a net.Conn
}

// SetLinger is that of net.TCPConn for 0: the next Close resets the connection.
func (c *memoryConn) SetLinger(sec int) error {
	c.isReset.Store(sec == 0)
	return nil
}
