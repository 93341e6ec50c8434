package csiserver

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/operation"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// withDetachedWork starts a plugin whose calls give up at once, while their
// work goes on until goOn is closed.
func withDetachedWork(t *testing.T, grace time.Duration, goOn <-chan struct{}) *plugin {
	t.Helper()
	detached := new(operation.Tracker)
	p := start(t, Options{Grace: grace, Detached: detached}, func(ctx context.Context, req *csi.ControllerExpandVolumeRequest) (*csi.ControllerExpandVolumeResponse, error) {
		ctx, cancel := context.WithTimeout(ctx, time.Millisecond)
		defer cancel()
		l := detached.NewLease(req.GetVolumeId(), func() {})
		defer l.Release()
		return operation.RunDetached(ctx, l, "formatting the volume", func() (*csi.ControllerExpandVolumeResponse, error) {
			<-goOn
			return &csi.ControllerExpandVolumeResponse{}, nil
		})
	})
	if _, err := p.expand(t.Context(), &csi.ControllerExpandVolumeRequest{VolumeId: "vol-7"}); status.Code(err) != codes.DeadlineExceeded {
		t.Fatalf("the call: %v, want DEADLINE_EXCEEDED", err)
	}
	return p
}

// waitForLog waits until the log has the text.
func (p *plugin) waitForLog(t *testing.T, text string) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(10 * time.Second); !strings.Contains(p.log.String(), text); {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("the log lacks %q:\n%s", text, p.log)
		}
	}
}

func TestStopWaitsForDetachedWork(t *testing.T) {
	t.Parallel()
	goOn := make(chan struct{})
	p := withDetachedWork(t, time.Minute, goOn)
	p.stop()
	p.waitForLog(t, "waiting for work that continues after its call")
	select {
	case err := <-p.done:
		t.Fatalf("the plugin ended with %v before its work had", err)
	default:
	}
	close(goOn)
	if err := p.stopped(t); err != nil {
		t.Error(err)
	}
	if log := p.log.String(); strings.Contains(log, "leaving work") || !strings.Contains(log, `"detached_work":1`) {
		t.Errorf("the log says that work is left, or not that there was any:\n%s", log)
	}
}

// What the plugin does beside its calls ends between the calls and the wait for
// detached work: work that it has begun is waited for.
func TestStopWaitsForWorkThatStoppingLeaves(t *testing.T) {
	t.Parallel()
	detached, inCall, goOn := new(operation.Tracker), make(chan struct{}), make(chan struct{})
	endCall, stopping := make(chan struct{}), make(chan struct{})
	p := start(t, Options{Grace: time.Minute, Detached: detached, Stopping: func(ctx context.Context) {
		defer close(stopping)
		if err := ctx.Err(); err != nil {
			t.Errorf("the stop leaves no time: %v", err)
		}
		select {
		case <-endCall:
		default:
			t.Error("Stopping was called before the call ended")
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		l := detached.NewLease("vol-8", func() {})
		defer l.Release()
		_, _ = operation.RunDetached(ended, l, "growing the filesystem", func() (struct{}, error) { <-goOn; return struct{}{}, nil })
	}}, func(context.Context, *csi.ControllerExpandVolumeRequest) (*csi.ControllerExpandVolumeResponse, error) {
		close(inCall)
		<-endCall
		return &csi.ControllerExpandVolumeResponse{}, nil
	})
	go func() { _, _ = p.expand(t.Context(), &csi.ControllerExpandVolumeRequest{VolumeId: "vol-7"}) }()
	<-inCall
	p.stop()
	p.waitForLog(t, "stopping")
	close(endCall)
	<-stopping
	p.waitForLog(t, `"work":"growing the filesystem"`)
	select {
	case err := <-p.done:
		t.Fatalf("the plugin ended with %v before its work had", err)
	default:
	}
	close(goOn)
	if err := p.stopped(t); err != nil {
		t.Error(err)
	}
}

// Calls that use up the grace period leave some time to what the plugin does beside
// them, and its end.
func TestStoppingHasTimeAfterTheGracePeriod(t *testing.T) {
	t.Parallel()
	inCall, asked := make(chan struct{}), make(chan error, 1)
	p := start(t, Options{Grace: time.Millisecond, Stopping: func(ctx context.Context) {
		asked <- ctx.Err()
		<-ctx.Done()
	}}, func(ctx context.Context, _ *csi.ControllerExpandVolumeRequest) (*csi.ControllerExpandVolumeResponse, error) {
		close(inCall)
		<-ctx.Done()
		return nil, ctx.Err()
	})
	go func() { _, _ = p.expand(t.Context(), &csi.ControllerExpandVolumeRequest{VolumeId: "vol-7"}) }()
	<-inCall
	if err := p.stopped(t); err != nil {
		t.Error(err)
	}
	if err := <-asked; err != nil {
		t.Errorf("Stopping was given a context that had ended: %v", err)
	}
}

func TestStopNamesTheWorkThatItLeaves(t *testing.T) {
	t.Parallel()
	goOn := make(chan struct{})
	defer close(goOn)
	p := withDetachedWork(t, 20*time.Millisecond, goOn)
	if err := p.stopped(t); err != nil {
		t.Errorf("work that is left makes the stop fail: %v", err)
	}
	for line := range strings.Lines(p.log.String()) {
		if !strings.Contains(line, "leaving work that has not ended") {
			continue
		}
		for _, want := range []string{`"level":"WARN"`, `"work":"formatting the volume"`, `"volume":"vol-7"`, `"age":"`, "next_step"} {
			if !strings.Contains(line, want) {
				t.Errorf("the log lacks %s: %s", want, line)
			}
		}
		return
	}
	t.Errorf("the log does not name what is left:\n%s", p.log)
}
