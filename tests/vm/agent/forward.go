package main

import (
	"context"
	"errors"
	"io"
	"net"
	"time"
)

// forward carries every connection to a unix socket, both ways, for as long as
// one of the two sides is there. A connection is closed at once when nobody
// listens on the socket.
func forward(ctx context.Context, from net.Listener, socket string) error {
	for {
		conn, err := from.Accept()
		if err != nil {
			return err
		}
		go func() { _ = carry(ctx, conn, socket) }() // the client sees a closed connection
	}
}

func carry(ctx context.Context, conn net.Conn, socket string) error {
	defer conn.Close() //nolint:errcheck // both sides have seen the end
	dialer := net.Dialer{Timeout: 5 * time.Second}
	to, err := dialer.DialContext(ctx, "unix", socket)
	if err != nil {
		return err
	}
	defer to.Close() //nolint:errcheck // both sides have seen the end
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
