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

// testProgram returns the test binary to run in the guest: this one, or, if this
// one has the race detector, one without it that testProgram builds in dir.
//
// The race detector cannot work in a guest: User-Mode Linux gives a process 512 GiB
// of addresses (three levels of page tables), and the race detector's memory begins
// at 32 TiB.
func testProgram(ctx context.Context, dir string) (string, error) {
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
	_, _ = fmt.Fprintln(os.Stderr, "guest: the race detector cannot work in a guest: the tests run without it")
	path := filepath.Join(dir, "norace.test")
	args := []string{"test", "-c", "-race=false", "-o", path}
	if tags := settings["-tags"]; tags != "" {
		args = append(args, "-tags="+tags)
	}
	if mode := testing.CoverMode(); mode != "" {
		// The packages of -coverpkg are not known here: only this one is covered.
		args = append(args, "-cover", "-covermode="+mode)
	}
	cmd := exec.CommandContext(ctx, "go", append(args, strings.TrimSuffix(info.Path, ".test"))...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s without the race detector: %w: %s", info.Path, err, out)
	}
	return path, nil
}
