package fakecloud

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
)

// maxPort is the highest port of TCP. The ports of clouds in memory are above it, so that no such
// address can be one of TCP.
const maxPort = 65535

// Dialer returns a function that connects to these clouds by the addresses in their URLs, also to
// those in memory (Options.InMemory), and to every other address as net.Dialer does.
func Dialer(clouds ...*Cloud) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		for _, c := range clouds {
			if l := c.memoryListener(); l != nil && l.address.String() == address {
				return l.dial(ctx, network)
			}
		}
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}
}

// memoryListener returns the listener of a cloud in memory, and nil for one with a socket.
func (c *Cloud) memoryListener() *memoryListener {
	c.listenerMu.Lock()
	defer c.listenerMu.Unlock()
	l, _ := c.listener.(*memoryListener)
	return l
}

// memoryAddress is the address of a cloud in memory. It is one of the loopback interface, for which
// no client uses a proxy.
type memoryAddress string

// newMemoryAddress returns an address that no other cloud of a test has.
func newMemoryAddress() string {
	const count = 1 << 40
	return fmt.Sprintf("127.0.0.1:%d", maxPort+1+rand.Int64N(count)) //nolint:gosec // no secret
}

// Network implements net.Addr.
func (memoryAddress) Network() string { return "memory" }

// String implements net.Addr.
func (a memoryAddress) String() string { return string(a) }

// memoryListener is a net.Listener for Dialer.
type memoryListener struct {
	address memoryAddress
	conns   chan net.Conn
	closed  chan struct{}
	close   sync.Once
}

func listenInMemory(address string) *memoryListener {
	return &memoryListener{address: memoryAddress(address), conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *memoryListener) dial(ctx context.Context, network string) (net.Conn, error) {
	client, server := net.Pipe()
	isReset := new(atomic.Bool)
	var err error
	select {
	case l.conns <- &memoryConn{Conn: server, isReset: isReset}:
		return &memoryConn{Conn: client, isReset: isReset}, nil
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
	l.close.Do(func() { close(l.closed) })
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
