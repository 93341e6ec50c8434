package guest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
)

// programFor returns the test binary to run in the guest: this one, or with
// the race detector a new one without it, built in dir.
//
// User-Mode Linux gives a process 512 GiB of addresses (three levels of page
// tables); the race detector's shadow memory begins at 32 TiB.
func programFor(ctx context.Context, dir string) (string, error) {
	info, ok := debug.ReadBuildInfo()
	settings := make(map[string]string)
	if ok {
		for _, s := range info.Settings {
			settings[s.Key] = s.Value
		}
	}
	if settings["-race"] != "true" {
		return os.Executable()
	}
	_, _ = fmt.Fprintln(os.Stderr, "guest: the race detector cannot work in a guest: running the tests built without it")
	path := filepath.Join(dir, "norace.test")
	args := []string{"test", "-c", "-race=false", "-o", path}
	if tags := settings["-tags"]; tags != "" {
		args = append(args, "-tags="+tags)
	}
	if mode := testing.CoverMode(); mode != "" {
		// Which packages -coverpkg named is not known here: this covers the
		// package itself.
		args = append(args, "-cover", "-covermode="+mode)
	}
	cmd := exec.CommandContext(ctx, "go", append(args, strings.TrimSuffix(info.Path, ".test"))...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s without race detector: %w: %s", info.Path, err, out)
	}
	return path, nil
}
