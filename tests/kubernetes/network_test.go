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

// network is a network namespace. The zero value is that of this process.
type network struct{ path string }

// clusterNetwork returns the network namespace of the cluster, which has only a
// loopback device. dir is the directory of the cluster.
func clusterNetwork(dir string) (network, error) {
	record, err := os.ReadFile(filepath.Join(dir, "cluster")) //nolint:gosec // the rig's
	if err != nil {
		return network{}, fmt.Errorf("read the process of the cluster: %w (next step: run `make cluster-up`)", err)
	}
	pid, _, _ := strings.Cut(string(record), " ")
	return network{filepath.Join("/proc", pid, "ns", "net")}, nil
}

// run calls f on a thread of the namespace, so that the sockets that f makes belong
// to it.
func (n network) run(f func() error) error {
	if n.path == "" {
		return f()
	}
	result := make(chan error)
	go func() {
		// Without an unlock the thread, which cannot leave the namespace, ends with the
		// goroutine.
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

// forward forwards connections to an address in the namespace to a server, until
// the end of the test, and returns the address. Port 0 means any free port.
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
		_ = forward.Serve(ctx, listener, to) // returns because the listener is closed
		close(done)
	}()
	t.Cleanup(func() {
		cancel()
		_ = listener.Close() // an error leaves nothing open
		<-done
	})
	return listener.Addr().String()
}
