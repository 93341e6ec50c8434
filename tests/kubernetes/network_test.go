package kubernetes_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/tests/forward"
)

// network is a network namespace; the zero value is the one of this process.
type network struct{ path string }

// clusterNetwork is the namespace of the cluster, which has a loopback device
// and nothing else that leads out of it.
func clusterNetwork(dir string) (network, error) {
	record, err := os.ReadFile(filepath.Join(dir, "cluster")) //nolint:gosec // the rig's
	if err != nil {
		return network{}, fmt.Errorf("is the cluster up? %w", err)
	}
	pid, _, _ := strings.Cut(string(record), " ")
	return network{filepath.Join("/proc", pid, "ns", "net")}, nil
}

// run executes f with sockets that belong to the namespace.
func (n network) run(f func() error) error {
	if n.path == "" {
		return f()
	}
	result := make(chan error)
	go func() {
		// Not unlocked: the thread, which is in the namespace for good, ends
		// with the goroutine.
		runtime.LockOSThread()
		result <- func() error {
			namespace, err := os.Open(n.path)
			if err != nil {
				return err
			}
			defer namespace.Close() //nolint:errcheck // only read from
			if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("enter the network namespace %s: %w", n.path, err)
			}
			return f()
		}()
	}()
	return <-result
}

// dial returns a function that connects to the address in the namespace.
func (n network) dial(address string) forward.Dial {
	dial := forward.To("tcp4", address)
	return func(ctx context.Context) (conn net.Conn, err error) {
		err = n.run(func() (err error) {
			conn, err = dial(ctx)
			return err
		})
		return conn, err
	}
}

// forward makes an address of the namespace lead to a server, for the time of
// the test, and returns the address. Port 0 is any port.
func (n network) forward(t *testing.T, address string, to forward.Dial) string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var listener net.Listener
	err := n.run(func() (err error) {
		listener, err = new(net.ListenConfig).Listen(ctx, "tcp4", address)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		_ = forward.Serve(ctx, listener, to) // it says that the listener is closed
		close(done)
	}()
	t.Cleanup(func() {
		cancel()
		_ = listener.Close() // nothing is lost
		<-done
	})
	return listener.Addr().String()
}
