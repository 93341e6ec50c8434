package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/tests/guest/internal/protocol"
)

// setUp prepares the booted guest for the command: mounts, host name, network,
// limits and kernel modules.
func setUp(task *protocol.Task) error {
	if err := mountAll(task.Mounts); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte("guest")); err != nil {
		return fmt.Errorf("set hostname: %w", err)
	}
	if err := configureInterface("lo", netip.Prefix{}); err != nil {
		return err
	}
	if task.Network.IsValid() {
		if err := configureInterface(protocol.NetworkDevice, task.Network); err != nil {
			return err
		}
	}
	if err := setLimits(); err != nil {
		return err
	}
	// From here on the kernel loads modules by itself ("mount -t overlay").
	if err := os.WriteFile("/proc/sys/kernel/modprobe", []byte(protocol.ModprobePath), 0); err != nil {
		return err
	}
	return loadModules(task.Modules)
}

// mountAll mounts the usual filesystems of a Linux system, and the shares.
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
	// Without root on the machine, files of the machine's root belong to nobody in the
	// guest, and a setuid mount(8) would run as nobody.
	var flags uintptr = unix.MS_NOSUID | unix.MS_RDONLY
	if m.Writable {
		flags = unix.MS_NOSUID
	}
	if err := unix.Mount("host", m.Guest, "hostfs", flags, m.Host); err != nil {
		return fmt.Errorf("mount host's %s on %s: %w", m.Host, m.Guest, err)
	}
	return nil
}

// configureInterface sets the address of a network interface, unless it is the zero
// value, and brings the interface up.
func configureInterface(name string, address netip.Prefix) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("network interface %s: %w", name, err)
	}
	defer func() { _ = unix.Close(fd) }()
	req, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	if address.IsValid() {
		mask := net.CIDRMask(address.Bits(), address.Addr().BitLen())
		err := errors.Join(
			req.SetInet4Addr(address.Addr().AsSlice()), unix.IoctlIfreq(fd, unix.SIOCSIFADDR, req),
			req.SetInet4Addr(mask), unix.IoctlIfreq(fd, unix.SIOCSIFNETMASK, req),
		)
		if err != nil {
			return fmt.Errorf("set the address of the network interface %s to %s: %w", name, address, err)
		}
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("bring the network interface %s up: %w", name, err)
	}
	return nil
}

// setLimits permits many open files and no core dumps.
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
	cmd := exec.CommandContext(ctx, protocol.ModprobePath, append([]string{"-a"}, names...)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin"}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("load kernel modules %s: %w: %s", strings.Join(names, " "), err, out)
	}
	return nil
}

// modprobe executes the machine's modprobe with the guest's directory of modules.
func modprobe(args []string) error {
	const program = "/usr/sbin/modprobe"
	argv := append([]string{program, "-d", protocol.ModulesDir}, args...)
	err := unix.Exec(program, argv, os.Environ())
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w (next step: install the Debian package kmod on the machine)", err)
	}
	return fmt.Errorf("%s: %w", filepath.Base(program), err)
}
