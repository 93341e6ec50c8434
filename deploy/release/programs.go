package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/growvol/growvol/deploy/release/internal/debian"
)

// platform is an operating system and an architecture, as Go names them.
type platform struct{ os, arch string }

func (p platform) String() string { return p.os + "_" + p.arch }

const (
	modulePath  = "github.com/growvol/growvol"
	linkerFlags = "-s -w -buildid= -X " + modulePath + "/pkg/version.release="
	// compilerFlags leaves out the debug information, which the linker strips anyway. The Makefile
	// has the same flags, so that Go does not compile the packages of this machine again.
	compilerFlags = "all=-dwarf=false"
)

// compile builds static programs of cmd for a platform, and returns the directory with them. It
// does nothing for programs that it has built before.
func (b build) compile(ctx context.Context, to platform, names ...string) (string, error) {
	dir := filepath.Join(b.work, to.String())
	var packages []string
	for _, name := range names {
		if _, err := os.Stat(filepath.Join(dir, name)); errors.Is(err, fs.ErrNotExist) {
			packages = append(packages, "./cmd/"+name)
		}
	}
	if len(packages) == 0 {
		return dir, nil
	}
	args := append([]string{"-o", dir + "/"}, packages...)
	return dir, b.goBuild(ctx, to, map[string]string{"CGO_ENABLED": "0"}, args...)
}

// goBuild runs `go build` such that the result depends only on the sources and on Go's version.
// GOFLAGS and settings of the machine have no effect.
func (b build) goBuild(ctx context.Context, to platform, environment map[string]string, args ...string) error {
	args = append([]string{
		"build", "-trimpath", "-buildvcs=false", "-gcflags=" + compilerFlags, "-ldflags=" + linkerFlags + b.version,
	}, args...)
	command := exec.CommandContext(ctx, "go", args...)
	settings := map[string]string{
		"GOOS": to.os, "GOARCH": to.arch, "GOAMD64": "v1", "GOARM64": "v8.0",
		"GOFLAGS": "", "GOEXPERIMENT": "", "GOWORK": "off",
	}
	maps.Copy(settings, environment)
	command.Env = os.Environ()
	for _, key := range slices.Sorted(maps.Keys(settings)) {
		command.Env = append(command.Env, key+"="+settings[key])
	}
	if out, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("go build for %s: %w\n%s", to, err, out)
	}
	return nil
}

// gccOf returns the C compiler for an architecture.
func gccOf(arch string) string {
	return map[string]string{"amd64": "x86_64-linux-gnu-gcc", "arm64": "aarch64-linux-gnu-gcc"}[arch]
}

// compileCeph builds the controller with the Ceph libraries of the lock, and returns its name. The
// tag pacific leaves out what Debian 12's librbd lacks.
func (b build) compileCeph(ctx context.Context, arch string) (string, error) {
	root, err := b.unpackCeph(ctx, arch)
	if err != nil {
		return "", err
	}
	libraries := filepath.Join(root, "usr", "lib", strings.TrimSuffix(gccOf(arch), "-gcc"))
	name := filepath.Join(b.work, "growvol-controller-ceph-"+arch)
	return name, b.goBuild(ctx, platform{"linux", arch}, map[string]string{
		"CGO_ENABLED": "1", "CC": gccOf(arch), "CGO_CFLAGS": "-O2 -I" + filepath.Join(root, "usr", "include"),
		"CGO_LDFLAGS": "-O2 -L" + libraries + " -Wl,-rpath-link=" + libraries + ":" + filepath.Join(libraries, "ceph"),
	}, "-tags=ceph,pacific", "-o", name, "./cmd/growvol-controller")
}

// unpackCeph returns a directory with the Ceph libraries and headers. Its name depends on the
// packages alone, because Go compiles again when the compiler's options change.
func (b build) unpackCeph(ctx context.Context, arch string) (string, error) {
	lock, err := debian.ReadLock(lockFile)
	if err != nil {
		return "", err
	}
	selected := lock.Select(setCephDev, arch)
	sum := sha256.Sum256(fmt.Append(nil, selected))
	root := filepath.Join(b.mirror.Cache, fmt.Sprintf("%s-%s-%x", setCephDev, arch, sum[:8]))
	if _, err := os.Stat(root); err == nil {
		return root, nil
	}
	files, err := b.mirror.Tree(ctx, selected)
	if err != nil {
		return "", err
	}
	unpacked, err := os.MkdirTemp(b.mirror.Cache, "new-")
	if err != nil {
		return "", err
	}
	if err := files.Unpack(unpacked); err != nil {
		return "", errors.Join(err, os.RemoveAll(unpacked))
	}
	if err := os.Rename(unpacked, root); errors.Is(err, fs.ErrExist) {
		return root, os.RemoveAll(unpacked) // another build was faster
	} else if err != nil {
		return "", errors.Join(err, os.RemoveAll(unpacked))
	}
	return root, nil
}

// output runs a program and returns its standard output.
func output(ctx context.Context, name string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, name, args...).Output()
	if exit := new(exec.ExitError); errors.As(err, &exit) && len(exit.Stderr) > 0 {
		return "", fmt.Errorf("%s: %w: %s", name, err, exit.Stderr)
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	return string(out), nil
}
