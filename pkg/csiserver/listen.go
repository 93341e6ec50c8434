package csiserver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// socketMode lets only the owner of the plugin talk to it: CSI has no
	// authentication of its own.
	socketMode = 0o600
	// maxSocketPath is the room in sockaddr_un.sun_path (unix(7)) without the
	// terminating zero.
	maxSocketPath = 107
	// probeTimeout bounds the attempt to reach a process behind a socket that
	// is already there.
	probeTimeout = 2 * time.Second
)

// ParseEndpoint splits an endpoint into what net.Listen and net.Dial take.
// Known are unix:///path, unix:/path, /path and tcp://host:port. Paths are
// absolute. Abstract sockets are refused, as they have no permissions.
func ParseEndpoint(endpoint string) (network, address string, err error) {
	switch scheme, rest, found := strings.Cut(endpoint, ":"); {
	case strings.HasPrefix(endpoint, "/"):
		network, address = "unix", endpoint
	case found && scheme == "unix":
		network, address = "unix", strings.TrimPrefix(rest, "//")
	case found && scheme == "tcp":
		network, address = "tcp", strings.TrimPrefix(rest, "//")
	default:
		return "", "", fmt.Errorf("endpoint %q: want unix:///path or tcp://host:port", endpoint)
	}
	if network == "tcp" {
		if _, _, err := net.SplitHostPort(address); err != nil {
			return "", "", fmt.Errorf("endpoint %q: %w", endpoint, err)
		}
		return network, address, nil
	}
	if !filepath.IsAbs(address) {
		return "", "", fmt.Errorf("endpoint %q: the socket path must be absolute, as in unix:///csi/csi.sock", endpoint)
	}
	address = filepath.Clean(address)
	if len(address) > maxSocketPath {
		return "", "", fmt.Errorf("endpoint %q: the socket path has %d bytes, the kernel takes at most %d", endpoint, len(address), maxSocketPath)
	}
	return network, address, nil
}

// Listen opens the endpoint (see ParseEndpoint). For a unix socket it creates
// the parent directory, removes a socket that nobody listens on any more, and
// restricts the new one to its owner; a socket on which somebody answers, and
// anything that is not a socket, is left alone and is an error. Closing the
// listener removes the socket, unless another process has put its own there.
func Listen(ctx context.Context, endpoint string) (net.Listener, error) {
	network, address, err := ParseEndpoint(endpoint)
	if err != nil {
		return nil, err
	}
	if network == "unix" {
		return listenUnix(ctx, address)
	}
	lis, err := new(net.ListenConfig).Listen(ctx, network, address)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", endpoint, err)
	}
	return lis, nil
}

func listenUnix(ctx context.Context, path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, fmt.Errorf("directory of the socket %s: %w", path, err)
	}
	if err := removeStale(ctx, path); err != nil {
		return nil, err
	}
	config := net.ListenConfig{Control: restrict}
	lis, err := config.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if u, ok := lis.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false)
	}
	made, err := os.Lstat(path)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("socket %s vanished: %w", path, err), lis.Close())
	}
	return &unixListener{Listener: lis, path: path, made: made}, nil
}

// restrict sets the mode of a socket before it is bound, when Linux takes it
// over for the file. A chmod afterwards would leave a moment in which anybody
// can connect.
func restrict(_, _ string, raw syscall.RawConn) error {
	var chmodErr error
	err := raw.Control(func(fd uintptr) { chmodErr = unix.Fchmod(int(fd), socketMode) })
	return errors.Join(err, chmodErr)
}

func removeStale(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at the socket %s: %w", path, err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s exists and is not a socket (%s); it is left alone: remove it or choose another endpoint", path, info.Mode())
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	switch {
	case err == nil:
		_ = conn.Close() // nothing was written: there is nothing to lose
		return fmt.Errorf("another process answers on %s: stop it or choose another endpoint", path)
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case !errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("cannot tell whether a process still uses %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the stale socket %s: %w", path, err)
	}
	return nil
}

// unixListener removes its socket when it is closed, but never one that a
// successor has put in its place.
type unixListener struct {
	net.Listener
	path string
	made fs.FileInfo
	once sync.Once
}

// Close closes the socket and removes its file.
func (l *unixListener) Close() error {
	err := l.Listener.Close()
	l.once.Do(func() {
		if now, statErr := os.Lstat(l.path); statErr == nil && os.SameFile(l.made, now) {
			err = errors.Join(err, os.Remove(l.path))
		}
	})
	return err
}
