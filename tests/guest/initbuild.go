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

// The sources of the guest's init, to know whether the one built last is
// still the right one.
//
//go:embed init/*.go internal/protocol/*.go
var initSources embed.FS

const initPackage = "github.com/growvol/growvol/tests/guest/init"

// buildInit returns the path of the guest's init program. It is built on first
// need and kept in the user's cache, or in dir when there is none.
func buildInit(ctx context.Context, dir string) (string, error) {
	sum, err := initSum()
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
	// Two packages' tests may build at the same time: each one renames a whole
	// file into place.
	tmp, err := os.MkdirTemp(dir, "build-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	built := filepath.Join(tmp, "init")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", built, initPackage)
	// Static, so that it runs where there is no C library.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the guest's init: %w: %s", err, out)
	}
	return path, os.Rename(built, path)
}

func initSum() (string, error) {
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
