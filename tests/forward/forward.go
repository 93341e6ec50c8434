// Package forward carries connections from where tests are to where a server
// is: into a guest, or between network namespaces.
package forward

import (
	"context"
	"errors"
	"io"
	"net"
	"time"
)

// Dial connects to the server.
type Dial func(context.Context) (net.Conn, error)

// dialTimeout bounds a connection to the server of To.
const dialTimeout = 5 * time.Second

// To connects to an address of a network that package net knows.
func To(network, address string) Dial {
	dialer := net.Dialer{Timeout: dialTimeout}
	return func(ctx context.Context) (net.Conn, error) { return dialer.DialContext(ctx, network, address) }
}

// Serve carries every connection to the server, both ways, for as long as one
// of the two sides is there. A connection is closed at once when the server
// cannot be reached. It returns when the listener is closed.
func Serve(ctx context.Context, from net.Listener, dial Dial) error {
	for {
		conn, err := from.Accept()
		if err != nil {
			return err
		}
		go func() { _ = carry(ctx, conn, dial) }() // the client sees a closed connection
	}
}

func carry(ctx context.Context, conn net.Conn, dial Dial) error {
	defer conn.Close() //nolint:errcheck // both sides have seen the end
	to, err := dial(ctx)
	if err != nil {
		return err
	}
	defer to.Close() //nolint:errcheck // both sides have seen the end
	// Neither side may end it by itself when the forwarding is over.
	defer context.AfterFunc(ctx, func() { _ = errors.Join(conn.Close(), to.Close()) })()
	ended := make(chan error, 2)
	for _, pair := range [][2]net.Conn{{conn, to}, {to, conn}} {
		go func() {
			_, err := io.Copy(pair[0], pair[1])
			ended <- err
		}()
	}
	err = <-ended // the rest would go nowhere
	return errors.Join(err, conn.Close(), to.Close())
}
