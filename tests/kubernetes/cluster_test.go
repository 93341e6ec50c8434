// Package kubernetes_test drives growvol as its users do: in a real Kubernetes,
// with the real sidecars, through kubectl. The script up of this directory brings
// up the cluster. TestCinder adds a node that is a Nova instance of a real
// OpenStack, see tests/openstack.
package kubernetes_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/must"
)

// clusterVariable is the environment variable with the directory of a running
// cluster.
const clusterVariable = "GROWVOL_KUBERNETES_DIR"

// waitTimeout bounds each wait. It is longer than kubelet's pauses between
// attempts, which reach two minutes.
const waitTimeout = 5 * time.Minute

// clusterCommand returns the first words of a command line that runs a command in the namespaces
// of the cluster. The script exec is asked for them once: it takes as long as a short command.
var clusterCommand = sync.OnceValues(func() ([]string, error) {
	out, err := runScript(context.Background(), "", "exec")
	return strings.Split(out, "\n"), err
})

// runInCluster runs a command in the namespaces of the cluster, and returns its standard output.
// The error contains all of its output.
func runInCluster(ctx context.Context, stdin string, args ...string) (string, error) {
	words, err := clusterCommand()
	if err != nil {
		return "", err
	}
	return runWithin(ctx, 2*waitTimeout, stdin, len(words), slices.Concat(words, args))
}

// runScript is runInCluster for one of the scripts of this directory.
func runScript(ctx context.Context, stdin, name string, args ...string) (string, error) {
	return runScriptWithin(ctx, 2*waitTimeout, stdin, name, args...)
}

// runScriptWithin is runScript with a timeout.
func runScriptWithin(
	ctx context.Context, timeout time.Duration, stdin, name string, args ...string,
) (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	return runWithin(ctx, timeout, stdin, 0, append([]string{filepath.Join(dir, name)}, args...))
}

// runWithin runs a command with a timeout. The error leaves out the first words, so many as skip.
func runWithin(
	ctx context.Context, timeout time.Duration, stdin string, skip int, words []string,
) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, words[0], words[1:]...) //nolint:gosec // the rig's own programs
	cmd.Stdin = strings.NewReader(stdin)
	cmd.WaitDelay = 10 * time.Second // the children are not killed and may hold the output open
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return string(out), fmt.Errorf("%s: %w: %s%s", strings.Join(words[skip:], " "), err, out, stderr.String())
	}
	return strings.TrimSpace(string(out)), nil
}

// kubectl runs kubectl as the administrator of the cluster.
func kubectl(ctx context.Context, args ...string) (string, error) {
	return runInCluster(ctx, "", append([]string{"kubectl"}, args...)...)
}

// skipWithoutCluster skips the test if no cluster is named.
func skipWithoutCluster(t *testing.T) {
	t.Helper()
	if os.Getenv(clusterVariable) == "" {
		t.Skipf("%s is not set (next step: run `make cluster-test`, which brings up a cluster)", clusterVariable)
	}
}

// eventually repeats a check until it passes, and returns the check's last error
// after the timeout.
func eventually(ctx context.Context, timeout time.Duration, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var last error
	for {
		err := check(ctx)
		switch {
		case err == nil:
			return nil
		case ctx.Err() == nil || last == nil: // an error after the timeout is only the timeout's
			last = err
		}
		if operation.Sleep(ctx, 300*time.Millisecond) != nil {
			return fmt.Errorf("not within %s: %w", timeout, last)
		}
	}
}

// moduleRoot returns the directory of the module.
func moduleRoot(t *testing.T) string {
	t.Helper()
	return must.Value(csiclient.ModuleRoot(t.Context()))(t)
}
