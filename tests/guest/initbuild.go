package guest

import (
	"context"
	"crypto/sha256"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
)

// initSources are the sources of the guest's init, whose hash is in the name of the
// built program.
//
//go:embed init/*.go internal/protocol/*.go
var initSources embed.FS

const initPackage = "github.com/growvol/growvol/tests/guest/init"

// buildInit returns the path of the guest's init program. It builds the program
// once and stores it in the user's cache, or in dir if there is no cache.
func buildInit(ctx context.Context, dir string) (string, error) {
	sum, err := initHash()
	if err != nil {
		return "", err
	}
	if cache, err := os.UserCacheDir(); err == nil {
		dir = filepath.Join(cache, "growvol")
	}
	path := filepath.Join(dir, "guest-init-"+sum)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	// The tests of two packages may build at the same time: each renames a complete
	// file to the path.
	tmp, err := os.MkdirTemp(dir, "build-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	built := filepath.Join(tmp, "init")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", built, initPackage)
	// Static, because it runs before /usr is mounted.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-gcflags=all=-dwarf=false")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the guest's init: %w: %s", err, out)
	}
	return path, os.Rename(built, path)
}

// initHash returns a hash of the sources and of Go's version.
func initHash() (string, error) {
	sum := sha256.New()
	_, err := fmt.Fprintln(sum, runtime.Version())
	walk := fs.WalkDir(initSources, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := initSources.ReadFile(path)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(sum, "%s %d\n%s", path, len(content), content)
		return err
	})
	return fmt.Sprintf("%x", sum.Sum(nil)[:8]), errors.Join(err, walk)
}
