package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/tests/vm/internal/protocol"
)

// searchPath is PATH of every program in the guest.
const searchPath = "/usr/sbin:/usr/bin:/sbin:/bin"

// setUp prepares the booted guest for programs: mounts, links, directories, limits
// and kernel modules.
func setUp() error {
	if err := os.Setenv("PATH", searchPath); err != nil {
		return err
	}
	mounts := []struct{ kind, dir, data string }{
		{"proc", "/proc", ""},
		{"sysfs", "/sys", ""},
		{"devtmpfs", "/dev", "mode=755"},
		{"devpts", "/dev/pts", ""},
		{"tmpfs", "/dev/shm", "mode=1777"},
		{"tmpfs", "/run", "mode=755"},
		{"tmpfs", "/tmp", "mode=1777"},
	}
	for _, m := range mounts {
		if err := os.MkdirAll(m.dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.dir, m.kind, 0, m.data); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.kind, m.dir, err)
		}
	}
	// As with systemd: a mount that a plugin makes in its own mount namespace must
	// appear in the others.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share mounts: %w", err)
	}
	links := map[string]string{
		"/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0",
		"/dev/stdout": "/proc/self/fd/1", "/dev/stderr": "/proc/self/fd/2",
	}
	for path, target := range links {
		if err := os.Symlink(target, path); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	for _, dir := range []string{"/run/growvol", "/run/lock", "/run/mount", "/run/cryptsetup", "/run/udev"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := unix.Sethostname([]byte("growvol-guest")); err != nil {
		return err
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return err
	}
	return loadModules()
}

// loadModules loads the modules of protocol.ModulesFile, without modprobe, which
// would read its indexes for longer than the modules take to load.
func loadModules() error {
	list, err := os.ReadFile(protocol.ModulesFile)
	if err != nil {
		return err
	}
	for _, path := range strings.Fields(string(list)) {
		if err := loadModule(path); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("load kernel module %s: %w", path, err)
		}
	}
	return nil
}

func loadModule(path string) error {
	f, err := os.Open(path) //nolint:gosec // from the image's own list
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read from
	flags := 0
	if !strings.HasSuffix(path, ".ko") {
		flags = unix.MODULE_INIT_COMPRESSED_FILE
	}
	return unix.FinitModule(int(f.Fd()), "", flags)
}
