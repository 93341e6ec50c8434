package ceph

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/growvol/growvol/tests/csiclient"
)

// This file builds the programs of the tests from the present sources.

// Programs are directories of the module.
type Programs struct {
	Bin    string // has the built programs: the plugins, and what runs in the nodes
	Source string // of this package
}

// Build compiles the plugins and the programs that run in the nodes. It needs the network of the
// machine if modules are missing.
func Build(ctx context.Context) (Programs, error) {
	root, err := csiclient.ModuleRoot(ctx)
	if err != nil {
		return Programs{}, err
	}
	p := Programs{Bin: filepath.Join(root, "bin"), Source: filepath.Join(root, "tests", "ceph")}
	const static, dynamic = "CGO_ENABLED=0", "CGO_ENABLED=1"
	for _, args := range [][]string{
		{
			static, "build", "-trimpath", "-ldflags=-s -w", "-o", p.Bin + "/",
			"./cmd/growvol-node", "./tests/vm/agent", "./tests/vm/writer", "./tests/forward/cmd/growvol-forward",
		},
		{static, "test", "-c", "-o", filepath.Join(p.Bin, "krbd.test"), "./pkg/rbd/krbd"},
		{
			dynamic, "build", "-trimpath", "-ldflags=-s -w", "-tags=ceph,pacific",
			"-o", filepath.Join(p.Bin, "growvol-controller-ceph"), "./cmd/growvol-controller",
		},
	} {
		cmd := exec.CommandContext(ctx, "go", args[1:]...) //nolint:gosec // fixed arguments
		cmd.Dir, cmd.Env = root, append(os.Environ(), args[0])
		if out, err := cmd.CombinedOutput(); err != nil {
			return Programs{}, fmt.Errorf("go %q: %w\n%s", args, err, out)
		}
	}
	return p, nil
}
