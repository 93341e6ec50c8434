package vm

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/growvol/growvol/tests/vm/internal/initrd"
)

// Image is a kernel and an initial RAM filesystem that a guest boots.
type Image struct {
	Kernel  string // path of the bootable kernel
	Initrd  string // path of the initial RAM filesystem
	Version string // of the kernel, as uname -r
	// Key is a hash of both files: equal images have equal keys.
	Key string
}

// CommandLine is the kernel parameters that an image needs, wherever it boots.
const CommandLine = "console=ttyS0 rdinit=/init"

// ImageOptions are the contents of an image besides the agent, growvol-node, and
// the usual modules and tools.
type ImageOptions struct {
	// Programs are files of this machine by their path in the guest. Their shared
	// libraries are added too.
	Programs map[string]string
	// Packages are the import paths of main packages of this module. Their programs
	// are built and added to /usr/bin.
	Packages []string
	// Modules are further kernel modules.
	Modules []string
}

const (
	modulePath   = "github.com/growvol/growvol"
	agentPackage = modulePath + "/tests/vm/agent"
	nodePackage  = modulePath + "/cmd/growvol-node"
)

// BuildImage builds growvol-node, the agent and the other packages from the present
// sources and writes vmlinuz and initrd to dir. Equal inputs give equal files. It takes
// about a second once the kernel is downloaded and the programs are in Go's build
// cache.
func BuildImage(ctx context.Context, dir string, opts ImageOptions) (image Image, err error) {
	k, err := findKernel(ctx)
	if err != nil {
		return Image{}, err
	}
	built, err := os.MkdirTemp("", "growvol-vm-build-")
	if err != nil {
		return Image{}, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(built)) }()
	packages := append([]string{nodePackage, agentPackage}, opts.Packages...)
	if err := buildPackages(ctx, built, packages); err != nil {
		return Image{}, err
	}
	tree := initrd.New()
	if err := addModules(tree, k, opts.Modules); err != nil {
		return Image{}, err
	}
	if err := addSystem(tree); err != nil {
		return Image{}, err
	}
	for _, p := range append([]string{nodePackage}, opts.Packages...) {
		name := filepath.Base(p)
		if err := tree.AddProgram("/usr/bin/"+name, filepath.Join(built, name)); err != nil {
			return Image{}, err
		}
	}
	for _, path := range slices.Sorted(maps.Keys(opts.Programs)) {
		if err := tree.AddProgram(path, opts.Programs[path]); err != nil {
			return Image{}, err
		}
	}
	if err := tree.AddProgram("/init", filepath.Join(built, filepath.Base(agentPackage))); err != nil {
		return Image{}, err
	}
	return writeImage(dir, k, tree)
}

// writeImage writes the kernel and the tree to dir.
func writeImage(dir string, k kernel, tree *initrd.Tree) (Image, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return Image{}, err
	}
	image := Image{Kernel: filepath.Join(dir, "vmlinuz"), Initrd: filepath.Join(dir, "initrd"), Version: k.version}
	content, err := os.ReadFile(k.image)
	if err != nil {
		return Image{}, err
	}
	if err := os.WriteFile(image.Kernel, content, 0o644); err != nil {
		return Image{}, err
	}
	f, err := os.Create(image.Initrd)
	if err != nil {
		return Image{}, err
	}
	sum := sha256.New()
	sum.Write(content)
	if err := errors.Join(tree.Encode(io.MultiWriter(f, sum)), f.Close()); err != nil {
		return Image{}, err
	}
	image.Key = fmt.Sprintf("%x", sum.Sum(nil)[:8])
	return image, nil
}

// buildPackages compiles main packages of this module to dir, static because the
// guest may have another C library.
func buildPackages(ctx context.Context, dir string, packages []string) error {
	root, err := runProgram(ctx, "", "go", "env", "GOMOD")
	if err != nil {
		return err
	}
	args := []string{
		"CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOFLAGS=-gcflags=all=-dwarf=false",
		"go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", dir + "/",
	}
	_, err = runProgram(ctx, filepath.Dir(strings.TrimSpace(root)), "env", append(args, packages...)...)
	return err
}

// guestTools returns the programs that growvol-node calls and those with which
// tests check its work. They are of the Debian packages e2fsprogs, xfsprogs,
// util-linux, mount, cryptsetup-bin, kmod and dash.
func guestTools() []string {
	return []string{
		"mke2fs", "mkfs.ext2", "mkfs.ext3", "mkfs.ext4", "e2fsck", "fsck.ext2", "fsck.ext3", "fsck.ext4",
		"resize2fs", "tune2fs", "dumpe2fs", "fsck", "mkfs.xfs", "fsck.xfs", "xfs_repair", "xfs_db",
		"blkid", "mount", "umount", "cryptsetup", "modprobe",
		// BusyBox's shell would run its own mount instead of the real one.
		"sh",
	}
}

// toolPath returns the path of a tool in the guest. Scripts expect the shell in
// /usr/bin (/bin is a link to it).
func toolPath(tool string) string {
	if tool == "sh" {
		return "/usr/bin/sh"
	}
	return "/usr/sbin/" + tool
}

// busyboxApplets returns the further programs that scripts in a guest may run. All
// of them are BusyBox.
func busyboxApplets() []string {
	return []string{
		"cat", "chmod", "chroot", "cmp", "cp", "cut", "date", "dd", "df", "dmesg", "du", "echo", "env", "false", "find",
		"grep", "head", "ip", "kill", "ln", "ls", "mkdir", "mknod", "mv", "nsenter", "od", "ps", "readlink", "realpath",
		"rm", "rmdir", "sed", "seq", "sha256sum", "sleep", "sort", "stat", "sync", "tail", "test", "touch", "tr", "true",
		"truncate", "uname", "uniq", "unshare", "wc", "yes",
	}
}

// addSystem adds the tools and the files of /etc to the tree.
func addSystem(tree *initrd.Tree) error {
	for _, tool := range guestTools() {
		path, err := findProgram(tool)
		if err != nil {
			return fmt.Errorf("find a tool of the guest: %w (next step: run tests/setup.sh as root)", err)
		}
		if err := tree.AddProgram(toolPath(tool), path); err != nil {
			return err
		}
	}
	busybox, err := findProgram("busybox")
	if err != nil {
		return fmt.Errorf("find busybox: %w (next step: install the Debian package busybox-static)", err)
	}
	if err := tree.AddProgram("/usr/bin/busybox", busybox); err != nil {
		return err
	}
	for _, a := range busyboxApplets() {
		tree.AddLink("/usr/bin/"+a, "busybox")
	}
	// glibc loads it by name when a thread exits or is canceled, as in cryptsetup's
	// key derivation.
	if err := tree.AddLibrary("libgcc_s.so.1"); err != nil {
		return err
	}
	if err := tree.AddCopy("/etc/mke2fs.conf", "/etc/mke2fs.conf", 0o644); err != nil {
		return err
	}
	for path, content := range map[string]string{
		"/etc/passwd":        "root:x:0:0:root:/root:/bin/sh\n",
		"/etc/group":         "root:x:0:\ndisk:x:6:\n",
		"/etc/hosts":         "127.0.0.1 localhost\n",
		"/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
	} {
		tree.AddFile(path, 0o644, []byte(content))
	}
	tree.AddLink("/etc/mtab", "/proc/self/mounts")
	return nil
}
