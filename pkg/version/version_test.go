package version_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestLinkerSetsVersion builds each program as a release does and reads its --version.
func TestLinkerSetsVersion(t *testing.T) {
	dir := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false",
		"-ldflags=-s -w -X github.com/growvol/growvol/pkg/version.release=1.2.3", "-o", dir+"/", "./cmd/...")
	build.Dir = filepath.Join("..", "..")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	for _, name := range []string{"growvol-controller", "growvol-node", "growvol-operator", "kubectl-growvol"} {
		out, err := exec.CommandContext(t.Context(), filepath.Join(dir, name), "--version").CombinedOutput()
		if err != nil || !strings.HasSuffix(strings.TrimSpace(string(out)), " 1.2.3") {
			t.Errorf("%s --version: got %q, %v, want the version 1.2.3", name, out, err)
		}
	}
}
