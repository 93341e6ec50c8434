package road

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/growvol/growvol/tests/co"
)

// heldMkfs puts an mkfs.ext4 in the way of the real one: it notes that it runs
// and waits for release before it becomes the real one.
func heldMkfs(t *testing.T) (runs func() int, release func()) {
	t.Helper()
	mkfs := get(exec.LookPath("mkfs.ext4"))(t)
	bin := t.TempDir()
	log, released := filepath.Join(bin, "log"), filepath.Join(bin, "released")
	script := "#!/bin/sh\necho run >> " + log + "\nuntil [ -e " + released + " ]; do sleep 0.05; done\nexec " + mkfs + " \"$@\"\n"
	must(t, os.WriteFile(filepath.Join(bin, "mkfs.ext4"), []byte(script), 0o755)) //nolint:gosec // a program
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	runs = func() int {
		text, _ := os.ReadFile(log) //nolint:gosec // the test's own
		return strings.Count(string(text), "run")
	}
	return runs, func() { must(t, os.WriteFile(released, nil, 0o600)) }
}

// stageInVain stages with less and less hurry, until the call has ended while
// mkfs runs.
func stageInVain(t *testing.T, d *co.Deployment, v *co.Volume) {
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
	wantCode(t, err, codes.DeadlineExceeded, "still under way")
}

// A format that has outlived its call is waited for by SIGTERM, and not begun
// again by the next plugin.
func TestStopWaitsForAFormat(t *testing.T) {
	runs, release := heldMkfs(t)
	d, ctx := deploy(t), t.Context()
	v := get(d.Create(ctx, name(t), 64*mib, co.Mount("ext4"), nil))(t)
	must(t, d.Attach(ctx, v))
	stageInVain(t, d, v)
	stopped := make(chan error, 1)
	go func() { stopped <- d.Node.Stop() }()
	select {
	case err := <-stopped:
		t.Fatalf("the plugin ended while mkfs ran: %v", err)
	case <-time.After(2 * time.Second): // nothing tells that it would not end
	}
	release()
	must(t, <-stopped)
	must(t, d.StartNode(ctx))
	must(t, d.Stage(ctx, v))
	if n := runs(); n != 1 {
		t.Errorf("mkfs ran %d times, want 1", n)
	}
	must(t, d.Publish(ctx, v))
	finishAll(t, d, v)
}

// A format that takes longer than the grace period is left, and the log names
// it; the next plugin makes the volume usable.
func TestStopLeavesALongFormat(t *testing.T) {
	_, release := heldMkfs(t)
	d, ctx := deploy(t, "--grace=1s"), t.Context()
	v := get(d.Create(ctx, name(t), 64*mib, co.Mount("ext4"), nil))(t)
	must(t, d.Attach(ctx, v))
	stageInVain(t, d, v)
	started := time.Now()
	must(t, d.Node.Stop())
	if took := time.Since(started); took < time.Second {
		t.Errorf("ended after %s, before the grace period was over", took)
	}
	wantLogged(t, d, "leaving work that has not ended", "formatting", v.ID, "age=")
	release()
	must(t, d.StartNode(ctx))
	must(t, retried(ctx, func() error { return d.Use(ctx, v) }))
	must(t, os.WriteFile(filepath.Join(v.Target, "file"), []byte("content"), 0o600))
	finishAll(t, d, v)
}

// wantLogged checks that one line of the plugins' log has all the words.
func wantLogged(t *testing.T, d *co.Deployment, words ...string) {
	t.Helper()
	log := string(get(os.ReadFile(filepath.Join(filepath.Dir(d.NodeSocket()), "plugins.log")))(t))
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
