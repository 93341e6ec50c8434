package guest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/guest/internal/protocol"
)

const (
	kernelName  = "linux.uml"
	modulesTree = "/usr/lib/uml/modules"
	guestPath   = "/guest/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"
)

// prepare makes everything the guest needs in dir and returns the command line
// that runs it.
func prepare(ctx context.Context, dir string, cmd Command, opts Options) ([]string, error) {
	kernel, err := exec.LookPath(kernelName)
	if err != nil {
		return nil, ErrNotInstalled
	}
	if strings.ContainsAny(dir, " ,") {
		return nil, fmt.Errorf("the kernel command line cannot carry the path %q: set TMPDIR to one without space and comma", dir)
	}
	initProgram, err := buildInit(ctx, dir)
	if err != nil {
		return nil, err
	}
	s, err := newSpec(cmd, opts)
	if err != nil {
		return nil, err
	}
	root := filepath.Join(dir, "root")
	if err := makeRoot(root, initProgram, s); err != nil {
		return nil, err
	}
	if opts.Memory == 0 {
		opts.Memory = DefaultMemory
	}
	memory, state := filepath.Join(dir, "memory"), filepath.Join(dir, "state")
	for _, d := range []string{memory, state} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return nil, err
		}
	}
	argv := []string{initProgram, "supervise", dir, memory, state}
	for _, share := range opts.Shares {
		if share.Writable {
			argv = append(argv, share.Host)
		}
	}
	argv = append(argv, "--", "/usr/bin/env", "TMPDIR="+memory, kernel)
	return append(argv, kernelArgs(root, opts.Memory)...), nil
}

// kernelArgs is the command line of the kernel. Its serial lines 0 to 2 go to
// the descriptors 3 to 5, its console to standard output. The kernel runs in the
// guest's directory: it crashes on a long uml_dir.
func kernelArgs(root string, memory volume.Size) []string {
	return []string{
		fmt.Sprintf("mem=%dM", memory/volume.MiB),
		"root=/dev/root", "rootfstype=hostfs", "rootflags=" + root, "ro", "init=/guest/bin/init",
		"uml_dir=state/",
		"con=null", "con0=null,fd:1", "ssl=null", "ssl0=null,fd:3", "ssl1=null,fd:4", "ssl2=null,fd:5",
		"log_buf_len=1M", "printk.time=1",
	}
}

func newSpec(cmd Command, opts Options) (*protocol.Spec, error) {
	s := &protocol.Spec{
		Modules: append([]string{"loop", "dm-mod"}, opts.Modules...),
		Path:    cmd.Path,
		Args:    cmd.Args,
		Dir:     cmd.Dir,
		Env: []string{
			"PATH=" + guestPath, "HOME=/root", "USER=root", "LOGNAME=root", "TMPDIR=/tmp",
			"LANG=C.UTF-8", "TZ=UTC", insideEnv + "=1",
			// There is no udev: libdevmapper makes the nodes itself.
			"DM_DISABLE_UDEV=1",
		},
	}
	s.Env = append(append(s.Env, opts.Env...), cmd.Env...)
	if s.Dir == "" {
		s.Dir = "/tmp"
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
		s.Mounts = append(s.Mounts, protocol.Mount{Host: share.Host, Guest: share.Guest, Writable: share.Writable})
	}
	return s, nil
}

// makeRoot writes the guest's root filesystem: mount points, a few files of
// /etc, and links. The guest sees it read-only.
func makeRoot(root, initProgram string, s *protocol.Spec) error {
	dirs := []string{"dev", "proc", "sys", "tmp", "run", "var", "root", "mnt", "etc", "guest/bin", "guest/modules/lib"}
	for _, m := range s.Mounts {
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
		protocol.Modprobe:           "init",
	}
	for name, target := range links {
		errs = append(errs, os.Symlink(target, filepath.Join(root, name)))
	}
	description, err := json.Marshal(s)
	errs = append(errs, err)
	files := map[string]string{
		protocol.File:       string(description),
		"etc/passwd":        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n",
		"etc/group":         "root:x:0:\ndisk:x:6:\nnogroup:x:65534:\n",
		"etc/hosts":         "127.0.0.1 localhost guest\n::1 localhost\n",
		"etc/hostname":      "guest\n",
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

func copyFile(from, to string, mode os.FileMode) error {
	content, err := os.ReadFile(from)
	if errors.Is(err, os.ErrNotExist) {
		return nil // the tool that reads it has defaults, or is not there either
	}
	if err != nil {
		return err
	}
	return os.WriteFile(to, content, mode)
}

// namespaces keeps the guest kernel's processes together and away from the
// machine: signals and /dev/shm segments stay among themselves, there is no
// network, and root is root of nothing outside.
func namespaces() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Setpgid: true,
		Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET |
			syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
	}
}

func startError(err error) error {
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("start guest: %w: the machine refuses user or PID namespaces to this user; run as root, in a container with more privileges", err)
	}
	return fmt.Errorf("start guest: %w", err)
}
