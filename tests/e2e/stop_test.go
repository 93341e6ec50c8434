package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/must"
)

// pauseMkfs puts an mkfs.ext4 in the way of the real one: it notes that it runs
// and waits for release before it becomes the real one.
func pauseMkfs(t *testing.T) (runs func() int, release func()) {
	t.Helper()
	mkfs := must.Value(exec.LookPath("mkfs.ext4"))(t)
	bin := t.TempDir()
	log, released := filepath.Join(bin, "log"), filepath.Join(bin, "released")
	script := "#!/bin/sh\necho run >> " + log + "\nuntil [ -e " + released + " ]; do sleep 0.05; done\nexec " + mkfs + " \"$@\"\n"
	must.Succeed(t, os.WriteFile(filepath.Join(bin, "mkfs.ext4"), []byte(script), 0o755)) //nolint:gosec // a program
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	runs = func() int {
		text, _ := os.ReadFile(log) //nolint:gosec // the test's own
		return strings.Count(string(text), "run")
	}
	return runs, func() { must.Succeed(t, os.WriteFile(released, nil, 0o600)) }
}

// stageUntilMkfsRuns stages with less and less hurry, until the call has ended while
// mkfs runs.
func stageUntilMkfsRuns(t *testing.T, d *csiclient.Deployment, v *csiclient.Volume) {
	t.Helper()
	var err error
	for patience := time.Second; patience < time.Minute; patience *= 2 { // a busy machine may not come that far
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		err = d.Stage(ctx, v)
		cancel()
		if err == nil || strings.Contains(err.Error(), "still under way") {
			break
		}
	}
	must.FailWith(t, err, codes.DeadlineExceeded, "still under way")
}

// A format that has outlived its call is waited for by SIGTERM, and not begun
// again by the next plugin.
func TestStopWaitsForAFormat(t *testing.T) {
	runs, release := pauseMkfs(t)
	d, ctx := deploy(t), t.Context()
	v := must.Value(d.Create(ctx, volumeName(t), 64*mib, csiclient.MountCapability("ext4"), nil))(t)
	must.Succeed(t, d.Attach(ctx, v))
	stageUntilMkfsRuns(t, d, v)
	stopped := make(chan error, 1)
	go func() { stopped <- d.NodePlugin.Stop() }()
	select {
	case err := <-stopped:
		t.Fatalf("the plugin ended while mkfs ran: %v", err)
	case <-time.After(2 * time.Second): // nothing tells that it would not end
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

// A format that takes longer than the grace period is left, and the log names
// it; the next plugin makes the volume usable.
func TestStopEndsAfterTheGracePeriod(t *testing.T) {
	_, release := pauseMkfs(t)
	d, ctx := deploy(t, "--grace=1s"), t.Context()
	v := must.Value(d.Create(ctx, volumeName(t), 64*mib, csiclient.MountCapability("ext4"), nil))(t)
	must.Succeed(t, d.Attach(ctx, v))
	stageUntilMkfsRuns(t, d, v)
	started := time.Now()
	must.Succeed(t, d.NodePlugin.Stop())
	if took := time.Since(started); took < time.Second {
		t.Errorf("ended after %s, before the grace period was over", took)
	}
	wantLogged(t, d, "leaving work that has not ended", "formatting", v.ID, "age=")
	release()
	must.Succeed(t, d.StartNode(ctx))
	must.Succeed(t, retryWhileInUse(ctx, func() error { return d.Use(ctx, v) }))
	must.Succeed(t, os.WriteFile(filepath.Join(v.Target, "file"), []byte("content"), 0o600))
	releaseAndDelete(t, d, v)
}

// wantLogged checks that one line of the plugins' log has all the words.
func wantLogged(t *testing.T, d *csiclient.Deployment, words ...string) {
	t.Helper()
	log := string(must.Value(os.ReadFile(filepath.Join(filepath.Dir(d.NodeSocket()), "plugins.log")))(t))
	for line := range strings.Lines(log) {
		missing := false
		for _, w := range words {
			missing = missing || !strings.Contains(line, w)
		}
		if !missing {
			return
		}
	}
	t.Errorf("no line of the log has all of %q", words)
}
