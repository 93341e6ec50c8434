package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/tests/guest/internal/protocol"
)

// setUp turns a freshly booted kernel into a machine that a command can run
// on.
func setUp(s *protocol.Spec) error {
	if err := mountAll(s.Mounts); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte("guest")); err != nil {
		return fmt.Errorf("set hostname: %w", err)
	}
	if err := loopbackUp(); err != nil {
		return err
	}
	if err := setLimits(); err != nil {
		return err
	}
	// The kernel asks for modules by itself from here on ("mount -t overlay").
	if err := os.WriteFile("/proc/sys/kernel/modprobe", []byte(protocol.Modprobe), 0); err != nil {
		return err
	}
	return loadModules(s.Modules)
}

func mountAll(shares []protocol.Mount) error {
	system := []struct{ kind, dir, data string }{
		{"proc", "/proc", ""},
		{"sysfs", "/sys", ""},
		{"tmpfs", "/tmp", "mode=1777,size=100%"},
		{"tmpfs", "/run", "mode=755"},
		{"tmpfs", "/var", "mode=755"},
		{"tmpfs", "/root", "mode=700"},
		{"devpts", "/dev/pts", ""},
		{"tmpfs", "/dev/shm", "mode=1777"},
		{"cgroup2", "/sys/fs/cgroup", ""},
	}
	for _, m := range system {
		if err := os.MkdirAll(m.dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.dir, m.kind, 0, m.data); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.kind, m.dir, err)
		}
	}
	for _, dir := range []string{"/run/lock", "/run/mount", "/run/cryptsetup", "/var/tmp", "/var/lib"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	for _, m := range shares {
		if err := mountShare(m); err != nil {
			return err
		}
	}
	return nil
}

func mountShare(m protocol.Mount) error {
	if err := os.MkdirAll(m.Guest, 0o755); err != nil {
		return fmt.Errorf("mount point for share: %w", err)
	}
	// A harness without root maps the machine's root to nobody, and a setuid
	// mount(8) would become nobody.
	var flags uintptr = unix.MS_NOSUID | unix.MS_RDONLY
	if m.Writable {
		flags = unix.MS_NOSUID
	}
	if err := unix.Mount("host", m.Guest, "hostfs", flags, m.Host); err != nil {
		return fmt.Errorf("mount host's %s on %s: %w", m.Host, m.Guest, err)
	}
	return nil
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("loopback interface: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("bring loopback interface up: %w", err)
	}
	return nil
}

func setLimits() error {
	limits := map[int]uint64{unix.RLIMIT_CORE: 0, unix.RLIMIT_NOFILE: 65536}
	for which, n := range limits {
		if err := unix.Setrlimit(which, &unix.Rlimit{Cur: n, Max: n}); err != nil {
			return fmt.Errorf("set resource limit %d to %d: %w", which, n, err)
		}
	}
	return nil
}

func loadModules(names []string) error {
	if len(names) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, protocol.Modprobe, append([]string{"-a"}, names...)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin"}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("load kernel modules %s: %w: %s", strings.Join(names, " "), err, out)
	}
	return nil
}

// modprobe becomes the machine's modprobe, told where the modules are.
func modprobe(args []string) error {
	const program = "/usr/sbin/modprobe"
	argv := append([]string{program, "-d", protocol.Modules}, args...)
	err := unix.Exec(program, argv, os.Environ())
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w (the machine lacks package %q)", err, "kmod")
	}
	return fmt.Errorf("%s: %w", filepath.Base(program), err)
}
