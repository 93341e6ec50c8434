package guest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/guest/internal/protocol"
)

// What a guest is made of: the kernel of the Debian package user-mode-linux and the
// directory of its modules, as tests/setup.sh installs them, and PATH in the guest.
const (
	kernelFile  = "/usr/local/lib/user-mode-linux/linux.uml"
	modulesTree = "/usr/local/lib/user-mode-linux/modules"
	guestPath   = "/guest/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"
)

// prepare writes the guest's files to dir and returns the command line that boots
// the guest with this kernel.
func prepare(ctx context.Context, kernel, dir string, cmd Command, opts Options) ([]string, error) {
	if _, err := os.Stat(kernel); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotInstalled, err)
	}
	if strings.ContainsAny(dir, " ,") {
		return nil, fmt.Errorf("the kernel's command line cannot contain the path %q "+
			"(next step: set TMPDIR to a path without space and comma)", dir)
	}
	initProgram, err := buildInit(ctx, dir)
	if err != nil {
		return nil, err
	}
	task, err := newTask(cmd, opts)
	if err != nil {
		return nil, err
	}
	root := filepath.Join(dir, "root")
	if err := makeRoot(root, initProgram, task); err != nil {
		return nil, err
	}
	if opts.Memory == 0 {
		opts.Memory = DefaultMemory
	}
	memoryDir, stateDir := filepath.Join(dir, "memory"), filepath.Join(dir, "state")
	for _, d := range []string{memoryDir, stateDir} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return nil, err
		}
	}
	inherited := 3 // the serial lines
	if opts.Network != nil {
		inherited++
	}
	argv := []string{initProgram, "supervise", dir, strconv.Itoa(inherited), memoryDir, stateDir}
	for _, share := range opts.Shares {
		if share.Writable {
			argv = append(argv, share.Host)
		}
	}
	argv = append(argv, "--", "/usr/bin/env", "TMPDIR="+memoryDir, kernel)
	argv = append(argv, kernelArgs(root, opts.Memory)...)
	if n := opts.Network; n != nil {
		// Without gro=1 the driver drops large frames: the guest could hardly receive.
		argv = append(argv, fmt.Sprintf("vec0:transport=fd,fd=%d,mac=%s,depth=128,gro=1", networkDescriptor, n.MAC))
	}
	return argv, nil
}

// networkDescriptor is the descriptor of the kernel's process that carries the frames of the
// network: it follows the serial lines.
const networkDescriptor = 6

// kernelArgs returns the kernel's parameters. The serial lines 0 to 2 are the
// descriptors 3 to 5, and the console is standard output. uml_dir is relative to
// the guest's directory because the kernel crashes on a long one. With seccomp the
// kernel runs the guest's programs without ptrace(2), where it can (from Linux 6.16).
func kernelArgs(root string, memory volume.Size) []string {
	return []string{
		fmt.Sprintf("mem=%dM", memory/volume.MiB),
		"root=/dev/root", "rootfstype=hostfs", "rootflags=" + root, "ro", "init=/guest/bin/init",
		"uml_dir=state/",
		"con=null", "con0=null,fd:1", "ssl=null", "ssl0=null,fd:3", "ssl1=null,fd:4", "ssl2=null,fd:5",
		"log_buf_len=1M", "printk.time=1", "seccomp=auto",
	}
}

// newTask returns what the guest's init has to do. It fails for a share that is no
// directory or has a relative path.
func newTask(cmd Command, opts Options) (*protocol.Task, error) {
	task := &protocol.Task{
		Modules: append([]string{"loop", "dm-mod"}, opts.Modules...),
		Path:    cmd.Path,
		Args:    cmd.Args,
		Dir:     cmd.Dir,
		Env: []string{
			"PATH=" + guestPath, "HOME=/root", "USER=root", "LOGNAME=root", "TMPDIR=/tmp",
			"LANG=C.UTF-8", "TZ=UTC", insideVariable + "=1",
			// The guest has no udev: libdevmapper makes the device nodes itself.
			"DM_DISABLE_UDEV=1",
		},
	}
	task.Env = append(append(task.Env, opts.Env...), cmd.Env...)
	if n := opts.Network; n != nil {
		if !n.Address.Addr().Is4() {
			return nil, fmt.Errorf("network: the address %s is not an IPv4 address with a prefix", n.Address)
		}
		task.Network = n.Address
	}
	if task.Dir == "" {
		task.Dir = "/tmp"
	}
	shares := append([]Share{{Host: "/usr"}, {Host: "/etc/alternatives"}}, opts.Shares...)
	for _, share := range shares {
		if share.Guest == "" {
			share.Guest = share.Host
		}
		if !filepath.IsAbs(share.Host) || !filepath.IsAbs(share.Guest) {
			return nil, fmt.Errorf("share %s as %s: both paths must be absolute", share.Host, share.Guest)
		}
		info, err := os.Stat(share.Host)
		if err != nil {
			return nil, fmt.Errorf("share: %w", err)
		}
		if !info.IsDir() {
			return nil, fmt.Errorf("share: %s is not a directory", share.Host)
		}
		task.Mounts = append(task.Mounts, protocol.Mount{Host: share.Host, Guest: share.Guest, Writable: share.Writable})
	}
	return task, nil
}

// makeRoot writes the guest's root filesystem: mount points, links, the task and
// some files of /etc. The guest sees it read-only.
func makeRoot(root, initProgram string, task *protocol.Task) error {
	dirs := []string{"dev", "proc", "sys", "tmp", "run", "var", "root", "mnt", "etc", "guest/bin", "guest/modules/lib"}
	for _, m := range task.Mounts {
		dirs = append(dirs, m.Guest)
	}
	var errs []error
	for _, d := range dirs {
		errs = append(errs, os.MkdirAll(filepath.Join(root, d), 0o755))
	}
	links := map[string]string{
		"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib32": "usr/lib32", "lib64": "usr/lib64",
		"etc/mtab":                  "/proc/self/mounts",
		"guest/modules/lib/modules": modulesTree,
		protocol.ModprobePath:       "init",
	}
	for name, target := range links {
		errs = append(errs, os.Symlink(target, filepath.Join(root, name)))
	}
	description, err := json.Marshal(task)
	errs = append(errs, err)
	files := map[string]string{
		protocol.TaskFile:   string(description),
		"etc/passwd":        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n",
		"etc/group":         "root:x:0:\ndisk:x:6:\nnogroup:x:65534:\n",
		"etc/hosts":         "127.0.0.1 localhost guest\n::1 localhost\n",
		"etc/hostname":      "guest\n",
		"etc/resolv.conf":   "",
		"etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
	}
	for name, content := range files {
		errs = append(errs, os.WriteFile(filepath.Join(root, name), []byte(content), 0o644))
	}
	for _, name := range []string{"etc/mke2fs.conf", "etc/ld.so.cache"} {
		errs = append(errs, copyFile("/"+name, filepath.Join(root, name), 0o644))
	}
	errs = append(errs, copyFile(initProgram, filepath.Join(root, "guest/bin/init"), 0o755))
	return errors.Join(errs...)
}

// copyFile copies a file. It succeeds if there is none.
func copyFile(from, to string, mode os.FileMode) error {
	content, err := os.ReadFile(from)
	if errors.Is(err, os.ErrNotExist) {
		return nil // a tool without its configuration file uses defaults
	}
	if err != nil {
		return err
	}
	return os.WriteFile(to, content, mode)
}

// namespaceAttributes isolates the processes of the guest's kernel from the
// machine: they have their own process ids, users, network, IPC and host name, and
// root in the guest is this process's user on the machine.
func namespaceAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Setpgid: true,
		Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET |
			syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
	}
}

// startError adds a next step to an error of the start of the guest's processes.
func startError(err error) error {
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("start the guest: %w: the machine refuses user or PID namespaces "+
			"(next step: run as root, or in a container with more privileges)", err)
	}
	return fmt.Errorf("start the guest: %w", err)
}
