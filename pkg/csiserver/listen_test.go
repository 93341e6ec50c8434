package csiserver

import (
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParseEndpoint(t *testing.T) {
	t.Parallel()
	for endpoint, want := range map[string]string{
		"unix:///csi/csi.sock":    "unix /csi/csi.sock",
		"unix:/csi/csi.sock":      "unix /csi/csi.sock",
		"/csi/csi.sock":           "unix /csi/csi.sock",
		"unix:////csi//csi.sock":  "unix /csi/csi.sock",
		"tcp://127.0.0.1:10000":   "tcp 127.0.0.1:10000",
		"tcp://[::1]:0":           "tcp [::1]:0",
		"":                        "",
		"csi.sock":                "",
		"unix://csi.sock":         "",
		"unix:csi.sock":           "",
		"unix://":                 "",
		"unix://@abstract":        "",
		"tcp://127.0.0.1":         "",
		"http://127.0.0.1:10000/": "",
		"unix:///" + strings.Repeat("x", maxSocketPath): "",
	} {
		network, address, err := parseEndpoint(endpoint)
		if got := network + " " + address; (want == "") != (err != nil) || (err == nil && got != want) {
			t.Errorf("%q: got %q, %v, want %q", endpoint, got, err, want)
		}
		if err != nil && !strings.Contains(err.Error(), endpoint) {
			t.Errorf("%q: got error %q, want the endpoint in it", endpoint, err)
		}
	}
}

// socketDir returns a directory whose path is short enough for a socket in it.
func socketDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "csi") //nolint:usetesting // the path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestSocketIsOnlyForOwnerAndRemovedOnClose(t *testing.T) {
	t.Parallel()
	path := filepath.Join(socketDir(t), "new", "dir", "csi.sock")
	lis, err := listen(t.Context(), "unix://"+path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode(); got != fs.ModeSocket|0o600 {
		t.Errorf("got mode %s, want a socket for its owner only", got)
	}
	if err := lis.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("the socket: got %v, want it removed", err)
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	t.Parallel()
	path := filepath.Join(socketDir(t), "csi.sock")
	// A process that was killed leaves its socket.
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	if err := dead.Close(); err != nil {
		t.Fatal(err)
	}
	lis, err := listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := new(net.Dialer).DialContext(t.Context(), "unix", path)
	if err != nil {
		t.Error(err)
	} else if err := conn.Close(); err != nil {
		t.Error(err)
	}
	if err := lis.Close(); err != nil {
		t.Error(err)
	}
}

func TestListenKeepsFilesInUse(t *testing.T) {
	t.Parallel()
	dir := socketDir(t)
	used := filepath.Join(dir, "used.sock")
	lis, err := listen(t.Context(), used)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(used, link); err != nil {
		t.Fatal(err)
	}
	for path, word := range map[string]string{
		used: "another process", file: "not a socket", dir: "not a socket", link: "not a socket",
	} {
		if _, err := listen(t.Context(), path); err == nil || !strings.Contains(err.Error(), word) ||
			!strings.Contains(err.Error(), path) {
			t.Errorf("%s: got %v, want an error with %q", path, err, word)
		}
		if _, err := os.Lstat(path); err != nil {
			t.Errorf("%s is gone: %v", path, err)
		}
	}
	if err := lis.Close(); err != nil {
		t.Error(err)
	}
}

// A plugin that stops late must not remove the socket of its successor.
func TestCloseKeepsSocketOfSuccessor(t *testing.T) {
	t.Parallel()
	path := filepath.Join(socketDir(t), "csi.sock")
	old, err := listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	successor, err := listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if err := old.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the successor's socket is gone: %v", err)
	}
	if err := successor.Close(); err != nil {
		t.Error(err)
	}
}
