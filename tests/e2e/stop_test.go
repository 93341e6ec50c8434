package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/must"
)

// pauseMkfs puts a script before the real mkfs.ext4 in PATH. The script records
// that it runs, waits for release, and then executes the real program.
func pauseMkfs(t *testing.T) (runs func() int, release func()) {
	t.Helper()
	mkfs := must.Value(exec.LookPath("mkfs.ext4"))(t)
	bin := t.TempDir()
	log, released := filepath.Join(bin, "log"), filepath.Join(bin, "released")
	script := fmt.Sprintf(`#!/bin/sh
echo run >> %s
until [ -e %s ]; do sleep 0.05; done
exec %s "$@"
`, log, released, mkfs)
	must.Succeed(t, os.WriteFile(filepath.Join(bin, "mkfs.ext4"), []byte(script), 0o755)) //nolint:gosec // a program
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	runs = func() int {
		text, _ := os.ReadFile(log) //nolint:gosec // the test's own
		return strings.Count(string(text), "run")
	}
	return runs, func() { must.Succeed(t, os.WriteFile(released, nil, 0o600)) }
}

// stageUntil stages with growing timeouts until the call times out in the step that the
// message contains. On a busy machine a short timeout ends earlier.
func stageUntil(t *testing.T, d *csiclient.Deployment, v *csiclient.Volume, message string) {
	t.Helper()
	var err error
	for timeout := time.Second; timeout < 2*time.Minute; timeout *= 2 {
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		err = d.Stage(ctx, v)
		cancel()
		if err != nil && strings.Contains(err.Error(), message) {
			break
		}
	}
	must.FailWith(t, err, codes.DeadlineExceeded, message)
}

// A plugin that gets SIGTERM waits for a format whose call has timed out, and the next
// plugin does not format again.
func TestStopWaitsForAFormat(t *testing.T) {
	runs, release := pauseMkfs(t)
	d, ctx := deploy(t), t.Context()
	v := must.Value(d.Create(ctx, volumeName(t), 64*mib, csiclient.MountCapability("ext4"), nil))(t)
	must.Succeed(t, d.Attach(ctx, v))
	stageUntil(t, d, v, "still under way")
	stopped := make(chan error, 1)
	go func() { stopped <- d.NodePlugin.Stop() }()
	select {
	case err := <-stopped:
		t.Fatalf("the plugin ended while mkfs ran: %v", err)
	case <-time.After(2 * time.Second): // no event shows that a process keeps running
	}
	release()
	must.Succeed(t, <-stopped)
	must.Succeed(t, d.StartNode(ctx))
	must.Succeed(t, d.Stage(ctx, v))
	if n := runs(); n != 1 {
		t.Errorf("mkfs ran %d times, want 1", n)
	}
	must.Succeed(t, d.Publish(ctx, v))
	releaseAndDelete(t, d, v)
}

// A plugin that gets SIGTERM ends after the grace period although a format still
// runs, and its log names the format. The next plugin makes the volume usable.
func TestStopEndsAfterTheGracePeriod(t *testing.T) {
	_, release := pauseMkfs(t)
	d, ctx := deploy(t, "--grace=1s"), t.Context()
	v := must.Value(d.Create(ctx, volumeName(t), 64*mib, csiclient.MountCapability("ext4"), nil))(t)
	must.Succeed(t, d.Attach(ctx, v))
	stageUntil(t, d, v, "still under way")
	started := time.Now()
	must.Succeed(t, d.NodePlugin.Stop())
	if took := time.Since(started); took < time.Second {
		t.Errorf("the plugin ended after %s, want the grace period of 1 s at least", took)
	}
	wantLogged(t, d, "leaving work that has not ended", "formatting", v.ID, "age=")
	release()
	must.Succeed(t, d.StartNode(ctx))
	must.Succeed(t, retryWhileInUse(ctx, func() error { return d.Use(ctx, v) }))
	must.Succeed(t, os.WriteFile(filepath.Join(v.Target, "file"), []byte("content"), 0o600))
	releaseAndDelete(t, d, v)
}

// wantLogged fails the test unless one line of the plugins' log contains all the words.
func wantLogged(t *testing.T, d *csiclient.Deployment, words ...string) {
	t.Helper()
	log := string(must.Value(os.ReadFile(filepath.Join(filepath.Dir(d.NodeSocket()), "plugins.log")))(t))
	for line := range strings.Lines(log) {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
			return
		}
	}
	t.Errorf("no line of the log contains all of %q", words)
}
