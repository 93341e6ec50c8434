package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// kernelPackage is the Debian package that depends on the newest kernel for clouds.
const kernelPackage = "linux-image-cloud-amd64"

// kernel is an unpacked kernel package.
type kernel struct {
	version string // as uname -r
	image   string // path of the bootable file
	modules string // directory of this version's modules, with depmod's files
}

// findKernel returns the newest kernel of the Debian archive. It downloads and unpacks
// the package into the user's cache and installs nothing. Without access to the archive
// it returns the newest kernel of the cache.
func findKernel(ctx context.Context) (kernel, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	cache, err := os.UserCacheDir()
	if err != nil {
		return kernel{}, err
	}
	dir := filepath.Join(cache, "growvol", "vm-kernels")
	name, version, err := findPackage(ctx)
	if err == nil {
		root := filepath.Join(dir, name+"_"+version)
		if k, err := readPackage(root); err == nil {
			return k, nil
		}
		if err = downloadPackage(ctx, root, name, version); err == nil {
			return readPackage(root)
		}
	}
	if k, found := findNewestCached(dir); found {
		return k, nil
	}
	return kernel{}, fmt.Errorf("find a kernel for the guest: package %s of Debian bookworm or later: %w",
		kernelPackage, err)
}

// findPackage returns the name and version of the package with the kernel, on which
// kernelPackage depends.
func findPackage(ctx context.Context) (name, version string, err error) {
	for _, update := range []bool{false, true} {
		if update { // container images come without package lists
			if _, err := runProgram(ctx, "", "apt-get", "update", "-qq"); err != nil {
				return "", "", err
			}
		}
		var out string
		if out, err = runProgram(ctx, "", "apt-cache", "show", "--no-all-versions", kernelPackage); err != nil {
			continue
		}
		for line := range strings.Lines(out) {
			if depends, ok := strings.CutPrefix(line, "Depends: "); ok {
				// "linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)"
				fields := strings.Fields(strings.NewReplacer("(=", "", ")", "").Replace(depends))
				if len(fields) == 2 {
					return fields[0], fields[1], nil
				}
			}
		}
		err = fmt.Errorf("apt-cache show %s names no kernel: %q", kernelPackage, out)
	}
	return "", "", err
}

// downloadPackage downloads and unpacks the package. root appears only when it is
// complete, because several tests may do this at the same time.
func downloadPackage(ctx context.Context, root, name, version string) (err error) {
	if err := os.MkdirAll(filepath.Dir(root), 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(root), "download-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	if _, err := runProgram(ctx, tmp, "apt-get", "download", "-qq", name+"="+version); err != nil {
		// The package lists may name a version that the archive no longer has.
		if _, err := runProgram(ctx, tmp, "apt-get", "update", "-qq"); err != nil {
			return err
		}
		if _, err := runProgram(ctx, tmp, "apt-get", "download", "-qq", name); err != nil {
			return err
		}
	}
	packages, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if err != nil {
		return err
	}
	if len(packages) != 1 {
		return fmt.Errorf("apt-get download %s: got %d packages, want 1", name, len(packages))
	}
	files := filepath.Join(tmp, "files")
	if _, err := runProgram(ctx, tmp, "dpkg-deb", "--extract", packages[0], files); err != nil {
		return err
	}
	release := strings.TrimPrefix(name, "linux-image-")
	if _, err := runProgram(ctx, tmp, "depmod", "-b", files, release); err != nil {
		return fmt.Errorf("%w (next step: install the Debian package kmod)", err)
	}
	if err := os.Rename(files, root); err != nil && !errors.Is(err, os.ErrExist) {
		if _, err := readPackage(root); err == nil {
			return nil // another process has unpacked it meanwhile
		}
		return err
	}
	return nil
}

// readPackage returns the kernel of a package that is unpacked in root.
func readPackage(root string) (kernel, error) {
	images, err := filepath.Glob(filepath.Join(root, "boot", "vmlinuz-*"))
	if err != nil || len(images) != 1 {
		return kernel{}, fmt.Errorf("%s: got %d kernels in boot/, want 1", root, len(images))
	}
	version := strings.TrimPrefix(filepath.Base(images[0]), "vmlinuz-")
	k := kernel{version: version, image: images[0], modules: filepath.Join(root, "lib", "modules", version)}
	if _, err := os.Stat(filepath.Join(k.modules, "modules.dep")); err != nil {
		k.modules = filepath.Join(root, "usr", "lib", "modules", version) // from trixie on
	}
	_, err = os.Stat(filepath.Join(k.modules, "modules.dep"))
	return k, err
}

// findNewestCached returns the kernel that was unpacked last.
func findNewestCached(dir string) (k kernel, found bool) {
	roots, _ := filepath.Glob(filepath.Join(dir, "linux-image-*")) // the pattern is valid
	modTime := func(path string) time.Time {
		info, err := os.Stat(path)
		if err != nil {
			return time.Time{}
		}
		return info.ModTime()
	}
	slices.SortFunc(roots, func(a, b string) int { return modTime(b).Compare(modTime(a)) })
	for _, root := range roots {
		if k, err := readPackage(root); err == nil {
			return k, true
		}
	}
	return kernel{}, false
}

// runProgram runs a program of this machine in dir and returns its standard output.
func runProgram(ctx context.Context, dir, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if path, err := findProgram(program); err == nil {
		cmd.Path, cmd.Err = path, nil
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return string(out), nil
}

// findProgram is exec.LookPath that also searches /usr/sbin and /sbin, which only
// root's PATH contains.
func findProgram(program string) (string, error) {
	path, err := exec.LookPath(program)
	if err == nil || strings.Contains(program, "/") {
		return path, err
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if p, err := exec.LookPath(filepath.Join(dir, program)); err == nil {
			return p, nil
		}
	}
	return "", err
}
