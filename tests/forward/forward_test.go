package forward_test

import (
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/growvol/growvol/tests/forward"
)

// Serve forwards in both directions, and closes a connection when the server cannot be
// reached.
func TestServeForwardsBothWays(t *testing.T) {
	ctx := t.Context()
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- forward.Serve(ctx, listener, forward.To("unix", socket)) }()
	exchange := func() (string, error) {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close() //nolint:errcheck // the test ends
		if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("ping")); err != nil {
			return "", err
		}
		buf := make([]byte, 4)
		n, err := c.Read(buf)
		return string(buf[:n]), err
	}
	if got, err := exchange(); err == nil {
		t.Errorf("without a server: got %q, want an error", got)
	}
	server, err := new(net.ListenConfig).Listen(ctx, "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		c, err := server.Accept()
		if err != nil {
			return
		}
		buf := make([]byte, 4)
		_, _ = c.Read(buf)
		_, _ = c.Write([]byte(strings.ToUpper(string(buf))))
		_ = c.Close()
	}()
	if got, err := exchange(); err != nil || got != "PING" {
		t.Errorf("got %q, %v; want PING", got, err)
	}
	_ = server.Close()
	_ = listener.Close()
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}
