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

// Connections are carried both ways, and closed when nobody listens there.
func TestServe(t *testing.T) {
	ctx := t.Context()
	socket := filepath.Join(t.TempDir(), "s")
	outside, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- forward.Serve(ctx, outside, forward.To("unix", socket)) }()
	exchange := func() (string, error) {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", outside.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close() //nolint:errcheck // nothing more to come
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
		t.Errorf("with nobody on the socket: %q", got)
	}
	inside, err := new(net.ListenConfig).Listen(ctx, "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		c, err := inside.Accept()
		if err != nil {
			return
		}
		buf := make([]byte, 4)
		_, _ = c.Read(buf)
		_, _ = c.Write([]byte(strings.ToUpper(string(buf))))
		_ = c.Close()
	}()
	if got, err := exchange(); err != nil || got != "PING" {
		t.Errorf("%q, %v", got, err)
	}
	_ = inside.Close()
	_ = outside.Close()
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}
