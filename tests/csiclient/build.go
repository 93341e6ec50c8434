package csiclient

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// BuildPlugins compiles both plugins from the present sources into the directory
// bin of the module and returns the directory. Tests call it on the machine, before
// they enter a guest, so that they never run old programs.
func BuildPlugins(ctx context.Context) (bin string, err error) {
	root, err := ModuleRoot(ctx)
	if err != nil {
		return "", err
	}
	bin = filepath.Join(root, "bin")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", bin+"/",
		"./cmd/growvol-controller", "./cmd/growvol-node") //nolint:gosec // fixed arguments
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the plugins: %w\n%s", err, out)
	}
	return bin, nil
}

// ModuleRoot returns the directory of the module.
func ModuleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	return filepath.Dir(strings.TrimSpace(string(out))), nil
}
