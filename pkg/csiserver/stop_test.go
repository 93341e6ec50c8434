package csiserver

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/growvol/growvol/pkg/operation"
)

// startWithDetachedWork starts a plugin and makes a call that times out while its work
// continues until end is closed.
func startWithDetachedWork(t *testing.T, grace time.Duration, end <-chan struct{}) *plugin {
	t.Helper()
	detached := new(operation.Tracker)
	expand := func(ctx context.Context, req *expandRequest) (*expandResponse, error) {
		ctx, cancel := context.WithTimeout(ctx, time.Millisecond)
		defer cancel()
		lease := detached.NewLease(req.GetVolumeId(), func() {})
		defer lease.Release()
		return operation.RunDetached(ctx, lease, "formatting the volume", func() (*expandResponse, error) {
			<-end
			return &expandResponse{}, nil
		})
	}
	p := start(t, Options{Grace: grace, Detached: detached}, expand)
	if _, err := p.expand(t.Context(), &expandRequest{VolumeId: "vol-7"}); status.Code(err) != codes.DeadlineExceeded {
		t.Fatalf("the call: got %v, want DEADLINE_EXCEEDED", err)
	}
	return p
}

// waitForLog waits for at most 10 s until the log has the text.
func (p *plugin) waitForLog(t *testing.T, text string) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(10 * time.Second); !strings.Contains(p.log.String(), text); {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("got log, want %q in it:\n%s", text, p.log)
		}
	}
}

// wantRunning fails the test if Run has returned.
func (p *plugin) wantRunning(t *testing.T) {
	t.Helper()
	select {
	case err := <-p.done:
		t.Fatalf("the plugin ended with %v before its detached work ended", err)
	default:
	}
}

func TestStopWaitsForDetachedWork(t *testing.T) {
	t.Parallel()
	end := make(chan struct{})
	p := startWithDetachedWork(t, time.Minute, end)
	p.stop()
	p.waitForLog(t, "waiting for work that continues after its call")
	p.wantRunning(t)
	close(end)
	if err := p.stopAndWait(t); err != nil {
		t.Error(err)
	}
	if log := p.log.String(); strings.Contains(log, "leaving work") || !strings.Contains(log, `"detached_work":1`) {
		t.Errorf("got log, want one detached work in it, and none left:\n%s", log)
	}
}

// Stopping runs after the calls have ended and before the wait for detached work, so the
// stop also waits for work that Stopping detaches.
func TestStopWaitsForWorkThatStoppingDetaches(t *testing.T) {
	t.Parallel()
	detached, inCall, end := new(operation.Tracker), make(chan struct{}), make(chan struct{})
	endCall, stopped := make(chan struct{}), make(chan struct{})
	stopping := func(ctx context.Context) {
		defer close(stopped)
		if err := ctx.Err(); err != nil {
			t.Errorf("Stopping got a context that has ended: %v", err)
		}
		select {
		case <-endCall:
		default:
			t.Error("Stopping was called before the call ended")
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		lease := detached.NewLease("vol-8", func() {})
		defer lease.Release()
		work := func() (struct{}, error) { <-end; return struct{}{}, nil }
		_, _ = operation.RunDetached(ended, lease, "growing the filesystem", work)
	}
	expand := func(context.Context, *expandRequest) (*expandResponse, error) {
		close(inCall)
		<-endCall
		return &expandResponse{}, nil
	}
	p := start(t, Options{Grace: time.Minute, Detached: detached, Stopping: stopping}, expand)
	go func() { _, _ = p.expand(t.Context(), &expandRequest{VolumeId: "vol-7"}) }()
	<-inCall
	p.stop()
	p.waitForLog(t, "stopping")
	close(endCall)
	<-stopped
	p.waitForLog(t, `"work":"growing the filesystem"`)
	p.wantRunning(t)
	close(end)
	if err := p.stopAndWait(t); err != nil {
		t.Error(err)
	}
}

// Calls that use up the grace period leave minStoppingTime to Stopping.
func TestStoppingHasTimeAfterGracePeriod(t *testing.T) {
	t.Parallel()
	inCall, canceled, deadlines := make(chan struct{}), make(chan time.Time, 1), make(chan time.Time, 1)
	stopping := func(ctx context.Context) {
		deadline, _ := ctx.Deadline()
		deadlines <- deadline
		<-ctx.Done()
	}
	expand := func(ctx context.Context, _ *expandRequest) (*expandResponse, error) {
		close(inCall)
		<-ctx.Done()
		canceled <- time.Now()
		return nil, ctx.Err()
	}
	p := start(t, Options{Grace: time.Millisecond, Stopping: stopping}, expand)
	go func() { _, _ = p.expand(t.Context(), &expandRequest{VolumeId: "vol-7"}) }()
	<-inCall
	if err := p.stopAndWait(t); err != nil {
		t.Error(err)
	}
	if got := (<-deadlines).Sub(<-canceled); got < minStoppingTime {
		t.Errorf("Stopping has until %s after the call was canceled, want %s at least", got, minStoppingTime)
	}
}

func TestStopLogsWorkThatItLeaves(t *testing.T) {
	t.Parallel()
	end := make(chan struct{})
	defer close(end)
	p := startWithDetachedWork(t, 20*time.Millisecond, end)
	if err := p.stopAndWait(t); err != nil {
		t.Errorf("got %v, want success although work is left", err)
	}
	for line := range strings.Lines(p.log.String()) {
		if !strings.Contains(line, "leaving work that has not ended") {
			continue
		}
		for _, want := range []string{
			`"level":"WARN"`, `"work":"formatting the volume"`, `"volume":"vol-7"`, `"age":"`, "next_step",
		} {
			if !strings.Contains(line, want) {
				t.Errorf("got record %s, want %s in it", line, want)
			}
		}
		return
	}
	t.Errorf("the log does not name the work that is left:\n%s", p.log)
}
