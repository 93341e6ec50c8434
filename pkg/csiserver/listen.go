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

// listen opens the endpoint (see parseEndpoint). For a unix socket it creates the parent
// directory, removes a stale socket, and restricts the new socket to its owner. It returns
// an error if a process answers on the existing socket, or if the path is not a socket.
// Closing the listener removes the socket, unless another process has replaced it.
func listen(ctx context.Context, endpoint string) (net.Listener, error) {
	network, address, err := parseEndpoint(endpoint)
	if err != nil {
		return nil, err
	}
	if network == "unix" {
		return listenUnix(ctx, address)
	}
	lis, err := new(net.ListenConfig).Listen(ctx, network, address)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w", endpoint, err)
	}
	return lis, nil
}

// parseEndpoint splits an endpoint into the arguments of net.Listen. Valid are unix:///path,
// unix:/path, /path and tcp://host:port, with absolute paths. Abstract sockets are invalid:
// they have no permissions.
func parseEndpoint(endpoint string) (network, address string, err error) {
	switch scheme, rest, found := strings.Cut(endpoint, ":"); {
	case strings.HasPrefix(endpoint, "/"):
		network, address = "unix", endpoint
	case found && scheme == "unix":
		network, address = "unix", strings.TrimPrefix(rest, "//")
	case found && scheme == "tcp":
		network, address = "tcp", strings.TrimPrefix(rest, "//")
	default:
		return "", "", fmt.Errorf("the endpoint %q is invalid: use unix:///path or tcp://host:port", endpoint)
	}
	if network == "tcp" {
		if _, _, err := net.SplitHostPort(address); err != nil {
			return "", "", fmt.Errorf("the endpoint %q is invalid: %w", endpoint, err)
		}
		return network, address, nil
	}
	if !filepath.IsAbs(address) {
		return "", "", fmt.Errorf(
			"the endpoint %q is invalid: the socket path must be absolute, as in unix:///csi/csi.sock", endpoint)
	}
	address = filepath.Clean(address)
	if len(address) > maxSocketPath {
		return "", "", fmt.Errorf(
			"the endpoint %q is invalid: the socket path has %d bytes, but the kernel allows at most %d",
			endpoint, len(address), maxSocketPath)
	}
	return network, address, nil
}

const (
	// socketMode lets only the owner of the plugin connect: CSI has no authentication.
	socketMode = 0o600
	// maxSocketPath is the size of sockaddr_un.sun_path (unix(7)) without the terminating
	// zero, in bytes.
	maxSocketPath = 107
	// connectTimeout bounds the attempt to connect to an existing socket.
	connectTimeout = 2 * time.Second
)

func listenUnix(ctx context.Context, path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, fmt.Errorf("cannot create the directory of the socket %s: %w", path, err)
	}
	if err := removeStale(ctx, path); err != nil {
		return nil, err
	}
	config := net.ListenConfig{Control: setSocketMode}
	lis, err := config.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w", path, err)
	}
	if u, ok := lis.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false)
	}
	created, err := os.Lstat(path)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot read the new socket %s: %w", path, err), lis.Close())
	}
	return &unixListener{Listener: lis, path: path, created: created}, nil
}

// setSocketMode sets the mode of a socket before it is bound; Linux uses it for the file. A
// chmod after the bind would let every user connect for a moment.
func setSocketMode(_, _ string, raw syscall.RawConn) error {
	var chmodErr error
	err := raw.Control(func(fd uintptr) { chmodErr = unix.Fchmod(int(fd), socketMode) })
	return errors.Join(err, chmodErr)
}

// removeStale removes the socket of a process that has ended. It returns an error for
// everything else at the path.
func removeStale(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot read the socket %s: %w", path, err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s exists, but is not a socket (%s): remove it, or set another --endpoint", path, info.Mode())
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	switch {
	case err == nil:
		_ = conn.Close() // nothing was written
		return fmt.Errorf("another process answers on %s: stop it, or set another --endpoint", path)
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case !errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("cannot check whether a process still uses %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot remove the stale socket %s: %w", path, err)
	}
	return nil
}

// unixListener removes its socket when it is closed, but never the socket by which another
// process has replaced it.
type unixListener struct {
	net.Listener
	path    string
	created fs.FileInfo
	once    sync.Once
}

// Close closes the socket and removes its file.
func (l *unixListener) Close() error {
	err := l.Listener.Close()
	l.once.Do(func() {
		if now, statErr := os.Lstat(l.path); statErr == nil && os.SameFile(l.created, now) {
			err = errors.Join(err, os.Remove(l.path))
		}
	})
	return err
}
