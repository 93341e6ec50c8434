// Package forward forwards connections to a server that the client cannot reach
// itself: in a guest, or in another network namespace.
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

// dialTimeout bounds a connection attempt of To.
const dialTimeout = 5 * time.Second

// To returns a Dial for an address; network is one of package net ("tcp4", "unix").
func To(network, address string) Dial {
	dialer := net.Dialer{Timeout: dialTimeout}
	return func(ctx context.Context) (net.Conn, error) { return dialer.DialContext(ctx, network, address) }
}

// Serve accepts connections and forwards each to the server, in both directions,
// until one of the two ends closes it or ctx ends. A connection is closed at once
// when the server cannot be reached. Serve returns when the listener is closed.
func Serve(ctx context.Context, listener net.Listener, dial Dial) error {
	for {
		client, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() { _ = forward(ctx, client, dial) }() // the client sees the connection close
	}
}

// forward copies in both directions until one of them ends.
func forward(ctx context.Context, client net.Conn, dial Dial) error {
	defer client.Close() //nolint:errcheck // closed below
	server, err := dial(ctx)
	if err != nil {
		return err
	}
	defer server.Close() //nolint:errcheck // closed below
	// Closing both ends the copies when ctx ends.
	defer context.AfterFunc(ctx, func() { _ = errors.Join(client.Close(), server.Close()) })()
	ended := make(chan error, 2)
	for _, pair := range [][2]net.Conn{{client, server}, {server, client}} {
		go func() {
			_, err := io.Copy(pair[0], pair[1])
			ended <- err
		}()
	}
	err = <-ended // what the other direction still carries has no receiver
	return errors.Join(err, client.Close(), server.Close())
}
