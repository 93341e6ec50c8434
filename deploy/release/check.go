package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/growvol/growvol/deploy/release/internal/oci"
	"github.com/growvol/growvol/deploy/release/internal/tree"
)

// checkRelease is the command `release check`. It unpacks each image of a release, for each
// architecture, and starts its programs with the image's root and user: those of other
// architectures under QEMU's user emulation.
func checkRelease(ctx context.Context, args []string, stdout io.Writer) error {
	fs := flag.NewFlagSet("check", flag.ContinueOnError)
	dir := fs.String("dist", "dist", "directory of the release")
	if err := parseFlags(fs, args); err != nil {
		return err
	}
	archives, err := findArchives(*dir)
	if err != nil {
		return err
	}
	for _, archive := range archives {
		if err := checkArchive(ctx, archive, stdout); err != nil {
			return fmt.Errorf("check %s: %w", filepath.Base(archive), err)
		}
	}
	return nil
}

// checkArchive checks the images of all architectures in an archive.
func checkArchive(ctx context.Context, archive string, stdout io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "growvol-check-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	index, err := oci.ReadArchive(archive, filepath.Join(dir, "layout"))
	if err != nil {
		return err
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return err
	}
	name, rest, _ := strings.Cut(filepath.Base(archive), "_")
	for _, m := range manifest.Manifests {
		image, err := index.Image(m.Digest)
		if err != nil {
			return err
		}
		c, err := openContainer(image, filepath.Join(dir, m.Platform.Architecture))
		if err != nil {
			return fmt.Errorf("%s: %w", m.Platform.Architecture, err)
		}
		if err := c.check(ctx, name, strings.TrimSuffix(rest, "_oci.tar")); err != nil {
			return fmt.Errorf("%s: %w", m.Platform.Architecture, err)
		}
		if _, err := fmt.Fprintf(stdout, "%s for %s: its programs start\n", name, m.Platform.Architecture); err != nil {
			return err
		}
	}
	return nil
}

// container runs programs in the root of an image, in a mount namespace of their own.
type container struct {
	root     string
	config   *v1.ConfigFile
	emulator string // program in the root that runs the others; empty: none
}

// emulatorOf returns QEMU's static program for an architecture.
func emulatorOf(arch string) string {
	return "/usr/bin/qemu-" + map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[arch] + "-static"
}

// openContainer unpacks an image into root.
func openContainer(image v1.Image, root string) (*container, error) {
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	content := mutate.Extract(image)
	defer func() { _ = content.Close() }() // only read
	files := tree.New()
	if err := files.AddTar(content, func(string) bool { return true }); err != nil {
		return nil, err
	}
	for _, dir := range []string{root, filepath.Join(root, "tmp")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	if err := files.Unpack(root); err != nil {
		return nil, err
	}
	c := &container{root: root, config: config}
	if config.Architecture == runtime.GOARCH {
		return c, nil
	}
	program, err := os.ReadFile(emulatorOf(config.Architecture))
	if err != nil {
		return nil, fmt.Errorf("find the emulator: %w (next step: run: make release-setup)", err)
	}
	c.emulator = "/emulator"
	return c, os.WriteFile(filepath.Join(root, c.emulator), program, 0o755) //nolint:gosec // a program
}

// run runs a program as the user of the image, and returns its output.
func (c *container) run(ctx context.Context, command ...string) (string, error) {
	path, err := c.find(command[0])
	if err != nil {
		return "", err
	}
	full := append([]string{path}, command[1:]...)
	if c.emulator != "" {
		full = append([]string{c.emulator}, full...)
	}
	credential, err := c.credential()
	if err != nil {
		return "", err
	}
	process := exec.CommandContext(ctx, full[0], full[1:]...)
	process.Dir, process.Env = "/", c.config.Config.Env
	process.SysProcAttr = &syscall.SysProcAttr{Chroot: c.root, Cloneflags: syscall.CLONE_NEWNS, Credential: credential}
	out, err := process.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(command, " "), err, out)
	}
	return string(out), nil
}

// find returns the path of a program in the root, which it searches in the image's PATH.
func (c *container) find(program string) (string, error) {
	if filepath.IsAbs(program) {
		return program, nil
	}
	for _, variable := range c.config.Config.Env {
		list, isPath := strings.CutPrefix(variable, "PATH=")
		for _, dir := range filepath.SplitList(list) {
			// The directories in the root of a Debian system are links to those in /usr.
			if _, err := os.Lstat(filepath.Join(c.root, dir, program)); isPath && err == nil {
				return filepath.Join(dir, program), nil
			}
		}
	}
	return "", fmt.Errorf("the image has no program %s", program)
}

// credential returns the user of the image.
func (c *container) credential() (*syscall.Credential, error) {
	if c.config.Config.User == "" {
		return nil, nil //nolint:nilnil // root
	}
	uid, gid, _ := strings.Cut(c.config.Config.User, ":")
	var ids [2]uint32
	for i, text := range []string{uid, gid} {
		id, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("user of the image: %w", err)
		}
		ids[i] = uint32(id)
	}
	return &syscall.Credential{Uid: ids[0], Gid: ids[1]}, nil
}

// check starts the programs of an image: the one that it is for, which prints its version, and
// for the node all those that it runs.
func (c *container) check(ctx context.Context, name, version string) error {
	out, err := c.run(ctx, c.config.Config.Entrypoint[0], "--version")
	if err != nil {
		return err
	}
	if fields := strings.Fields(out); len(fields) != 2 || fields[1] != version {
		return fmt.Errorf("%s --version: got %q, want the version %s", c.config.Config.Entrypoint[0], out, version)
	}
	if name != imageNode {
		return nil
	}
	for file, size := range map[string]int64{"ext4": 32 << 20, "xfs": 300 << 20} {
		disk := filepath.Join(c.root, "tmp", file)
		if err := errors.Join(os.WriteFile(disk, nil, 0o600), os.Truncate(disk, size)); err != nil {
			return err
		}
	}
	for _, command := range [][]string{
		{"mkfs.ext4", "-q", "/tmp/ext4"},
		{"e2fsck", "-f", "-n", "/tmp/ext4"},
		{"mkfs.ext3", "-V"},
		{"mkfs.ext2", "-V"},
		{"mkfs.xfs", "-q", "/tmp/xfs"},
		{"xfs_repair", "-n", "/tmp/xfs"},
		{"xfs_growfs", "-V"},
		{"cryptsetup", "--version"},
		{"modprobe", "--version"},
		{"mount", "--version"},
		{"umount", "--version"},
	} {
		if _, err := c.run(ctx, command...); err != nil {
			return err
		}
	}
	for file, want := range map[string]string{"/tmp/ext4": "TYPE=ext4", "/tmp/xfs": "TYPE=xfs"} {
		out, err := c.run(ctx, "blkid", "-p", "-s", "TYPE", "-o", "export", file)
		if err != nil {
			return err
		}
		if !strings.Contains(out, want) {
			return fmt.Errorf("blkid of %s: got %q, want %s", file, out, want)
		}
	}
	return nil
}
