package csiserver

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/growvol/growvol/pkg/volume"
)

type (
	expandRequest  = csi.ControllerExpandVolumeRequest
	expandResponse = csi.ControllerExpandVolumeResponse
	expandFunc     = func(context.Context, *expandRequest) (*expandResponse, error)
)

// controllerFunc is a Controller service of one method.
type controllerFunc struct {
	csi.UnimplementedControllerServer
	expand expandFunc
}

func (c controllerFunc) ControllerExpandVolume(ctx context.Context, req *expandRequest) (*expandResponse, error) {
	return c.expand(ctx, req)
}

// buffer is a bytes.Buffer for several goroutines.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// plugin is a running server and a client of it.
type plugin struct {
	log       *buffer
	path      string
	metrics   *Metrics
	conn      *grpc.ClientConn
	stop      context.CancelFunc
	closeConn func()
	done      chan error // Run's result
}

func start(t *testing.T, options Options, expand expandFunc) *plugin {
	t.Helper()
	p := &plugin{
		log: new(buffer), path: filepath.Join(socketDir(t), "csi.sock"), metrics: NewMetrics(), done: make(chan error, 1),
	}
	log, err := newLogger(p.log, "json", "debug")
	if err != nil {
		t.Fatal(err)
	}
	if options.Identity == nil {
		options.Identity = identity(t, healthy)
	}
	options.Endpoint, options.Log, options.Metrics = "unix://"+p.path, log, p.metrics
	options.Controller = controllerFunc{expand: expand}
	ctx, cancel := context.WithCancel(t.Context())
	p.stop = cancel
	go func() { p.done <- Run(ctx, options) }()
	p.conn, err = grpc.NewClient("unix://"+p.path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	p.closeConn = sync.OnceFunc(func() {
		if err := p.conn.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		p.closeConn()
	})
	ready, cancelReady := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancelReady()
	if _, err := csi.NewIdentityClient(p.conn).Probe(ready, &csi.ProbeRequest{}, grpc.WaitForReady(true)); err != nil &&
		status.Code(err) != codes.FailedPrecondition {
		t.Fatalf("the plugin does not start: %v\n%s", err, p.log)
	}
	return p
}

// get returns the answer of a handler.
func get(ctx context.Context, h http.Handler, path string) *httptest.ResponseRecorder {
	reply := httptest.NewRecorder()
	h.ServeHTTP(reply, httptest.NewRequestWithContext(ctx, http.MethodGet, path, http.NoBody))
	return reply
}

// identity returns an Identity service with topology.
func identity(t *testing.T, probe func(context.Context) error) *Identity {
	t.Helper()
	i, err := NewIdentity("test.growvol.io", true, probe)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// healthy is the probe of a plugin that works.
func healthy(context.Context) error { return nil }

func (p *plugin) expand(ctx context.Context, req *expandRequest) (*expandResponse, error) {
	return csi.NewControllerClient(p.conn).ControllerExpandVolume(ctx, req)
}

// stopAndWait stops the plugin and returns the result of Run.
func (p *plugin) stopAndWait(t *testing.T) error {
	t.Helper()
	p.stop()
	select {
	case err := <-p.done:
		return err
	case <-time.After(20 * time.Second):
		t.Fatal("the plugin still runs 20 s after its stop")
		return nil
	}
}

func TestSecretsAreNotLogged(t *testing.T) {
	t.Parallel()
	const secret = "hunter2-hunter2"
	p := start(t, Options{}, func(ctx context.Context, req *expandRequest) (*expandResponse, error) {
		if req.GetSecrets()["key"] != secret || volume.SecretsFrom(ctx)["key"] != secret {
			t.Error("the handler did not get the secret")
		}
		return nil, volume.Errorf(volume.KindDenied, "the cloud said no")
	})
	_, err := p.expand(t.Context(), &expandRequest{
		VolumeId: "vol-7", CapacityRange: &csi.CapacityRange{RequiredBytes: 12345}, Secrets: map[string]string{"key": secret},
	})
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("got %v, want PERMISSION_DENIED", err)
	}
	if err := p.stopAndWait(t); err != nil {
		t.Error(err)
	}
	log := p.log.String()
	for _, want := range []string{
		"ControllerExpandVolume", "vol-7", "12345", "stripped", "PermissionDenied", "the cloud said no", `"request_id":"`,
		`"duration":`, `"level":"WARN"`,
	} {
		if !strings.Contains(log, want) {
			t.Errorf("got log, want %q in it:\n%s", want, log)
		}
	}
	if strings.Contains(log, secret) {
		t.Errorf("got the secret in the log:\n%s", log)
	}
}

func TestPanicFailsOnlyItsCall(t *testing.T) {
	t.Parallel()
	p := start(t, Options{}, func(_ context.Context, req *expandRequest) (*expandResponse, error) {
		if req.GetVolumeId() == "bad" {
			panic("kaboom")
		}
		return &expandResponse{CapacityBytes: 1}, nil
	})
	_, err := p.expand(t.Context(), &expandRequest{VolumeId: "bad"})
	if status.Code(err) != codes.Internal || strings.Contains(err.Error(), "kaboom") {
		t.Errorf("got %v, want INTERNAL without the panic's value", err)
	}
	if _, err := p.expand(t.Context(), &expandRequest{VolumeId: "good"}); err != nil {
		t.Errorf("the next call: got %v, want success", err)
	}
	if log := p.log.String(); !strings.Contains(log, "kaboom") || !strings.Contains(log, "server_test.go") {
		t.Errorf("the log lacks the panic or its stack:\n%s", log)
	}
	reply := get(t.Context(), p.metrics.handler(), "/metrics")
	for _, want := range []string{
		`growvol_csi_calls_total{code="Internal",method="ControllerExpandVolume"} 1`,
		`growvol_csi_calls_total{code="OK",method="ControllerExpandVolume"} 1`,
		`growvol_csi_call_duration_seconds_count{method="ControllerExpandVolume"} 2`,
		`growvol_csi_calls_in_flight{method="ControllerExpandVolume"} 0`,
	} {
		if !strings.Contains(reply.Body.String(), want+"\n") {
			t.Errorf("got metrics, want %s in them:\n%s", want, reply.Body)
		}
	}
}

func TestCallsHaveDeadlines(t *testing.T) {
	t.Parallel()
	p := start(t, Options{
		CallTimeout: 50 * time.Millisecond,
	}, func(ctx context.Context, _ *expandRequest) (*expandResponse, error) {
		deadline, ok := ctx.Deadline()
		if ok && time.Until(deadline) > time.Minute {
			return &expandResponse{}, nil // set by the caller
		}
		<-ctx.Done()
		return nil, ctx.Err()
	})
	// Without the server's own deadline the call would never end. The client ends the call
	// after 10 s but sets no deadline for the server.
	noDeadline, cancelCall := context.WithCancel(t.Context())
	defer time.AfterFunc(10*time.Second, cancelCall).Stop()
	if _, err := p.expand(noDeadline, &expandRequest{}); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("a call without a deadline: got %v, want DEADLINE_EXCEEDED", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if _, err := p.expand(ctx, &expandRequest{}); err != nil {
		t.Errorf("a call with a deadline: got %v, want success", err)
	}
}

// A handler that waits until its context ends still answers before the deadline of the caller, with
// its own error: after the deadline no error of the server reaches the caller.
func TestAnswerComesBeforeDeadlineOfCaller(t *testing.T) {
	t.Parallel()
	p := start(t, Options{}, func(ctx context.Context, _ *expandRequest) (*expandResponse, error) {
		<-ctx.Done()
		return nil, volume.Wrap(ctx.Err(), "expand volume", "pvc-1")
	})
	var err error
	var left time.Duration // of the caller's time
	for _, timeout := range []time.Duration{2 * time.Second, answerParts * answerMargin} {
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		_, err = p.expand(ctx, &expandRequest{})
		deadline, _ := ctx.Deadline()
		left = time.Until(deadline)
		cancel()
		if left > timeout/answerParts {
			t.Errorf("the answer came %s before the deadline, want at most %s", left, timeout/answerParts)
		}
		if left > 0 { // else a busy machine may have stopped the process for the margin of a short call
			break
		}
	}
	if left <= 0 {
		t.Errorf("the answer came %s after the deadline", -left)
	}
	if status.Code(err) != codes.DeadlineExceeded || !strings.Contains(err.Error(), "expand volume pvc-1") {
		t.Errorf("got %v, want DEADLINE_EXCEEDED of the handler", err)
	}
}

func TestStopWaitsForRunningCalls(t *testing.T) {
	t.Parallel()
	running, finish := make(chan struct{}), make(chan struct{})
	p := start(t, Options{}, func(ctx context.Context, _ *expandRequest) (*expandResponse, error) {
		close(running)
		select {
		case <-finish:
			return &expandResponse{CapacityBytes: 42}, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	})
	result := make(chan error, 1)
	go func() {
		resp, err := p.expand(t.Context(), &expandRequest{})
		if err == nil && resp.GetCapacityBytes() != 42 {
			err = errors.New("wrong answer")
		}
		result <- err
	}()
	<-running
	p.stop()
	// New calls are refused from now on.
	refused := func() bool {
		_, err := csi.NewIdentityClient(p.conn).GetPluginInfo(t.Context(), &csi.GetPluginInfoRequest{})
		if err != nil && status.Code(err) != codes.Unavailable {
			t.Fatalf("a new call: got %v, want UNAVAILABLE", err)
		}
		return err != nil
	}
	for deadline := time.Now().Add(10 * time.Second); !refused(); {
		if time.Now().After(deadline) {
			t.Fatal("new calls still succeed 10 s after the stop")
		}
	}
	close(finish)
	if err := <-result; err != nil {
		t.Errorf("the running call: got %v, want success", err)
	}
	if err := p.stopAndWait(t); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(p.path); !os.IsNotExist(err) {
		t.Errorf("the socket: got %v, want it removed", err)
	}
}

// While the plugin waits for running calls, it is not healthy and refuses new calls, also
// on connections that are still open.
func TestStoppingPluginIsNotHealthy(t *testing.T) {
	t.Parallel()
	running, finish := make(chan struct{}), make(chan struct{})
	s, err := newServer(Options{Identity: identity(t, healthy), Controller: controllerFunc{
		expand: func(context.Context, *expandRequest) (*expandResponse, error) {
			close(running)
			<-finish
			return &expandResponse{}, nil
		},
	}})
	if err != nil {
		t.Fatal(err)
	}
	endpoint := "unix://" + filepath.Join(socketDir(t), "csi.sock")
	lis, err := listen(t.Context(), endpoint)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 2)
	go func() { served <- s.serve(ctx, lis) }()
	conn, err := grpc.NewClient(endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_, err := csi.NewControllerClient(conn).ControllerExpandVolume(t.Context(), &expandRequest{})
		served <- err
	}()
	<-running
	health := func() int { return get(t.Context(), s.httpHandler(), "/healthz").Code }
	if code := health(); code != http.StatusOK {
		t.Errorf("before the stop: got healthz %d, want 200", code)
	}
	stop()
	for deadline := time.Now().Add(10 * time.Second); health() != http.StatusServiceUnavailable; {
		if time.Now().After(deadline) {
			t.Fatal("still healthy 10 s after the stop")
		}
		runtime.Gosched()
	}
	_, err = s.refuseWhenStopping(t.Context(), nil, nil, func(context.Context, any) (any, error) {
		t.Error("a new call reached its handler")
		return nil, nil
	})
	if status.Code(err) != codes.Unavailable {
		t.Errorf("a new call: got %v, want UNAVAILABLE", err)
	}
	close(finish)
	if err := errors.Join(<-served, <-served, conn.Close()); err != nil {
		t.Error(err)
	}
}

func TestStopCancelsCallsAfterGracePeriod(t *testing.T) {
	t.Parallel()
	running, canceled := make(chan struct{}), make(chan struct{})
	p := start(t, Options{
		Grace: 20 * time.Millisecond,
	}, func(ctx context.Context, _ *expandRequest) (*expandResponse, error) {
		close(running)
		<-ctx.Done()
		close(canceled)
		return nil, ctx.Err()
	})
	result := make(chan error, 1)
	go func() {
		_, err := p.expand(t.Context(), &expandRequest{})
		result <- err
	}()
	<-running
	if err := p.stopAndWait(t); err != nil {
		t.Fatal(err)
	}
	<-canceled
	if err := <-result; status.Code(err) != codes.Unavailable && status.Code(err) != codes.Canceled {
		t.Errorf("the canceled call: got %v, want UNAVAILABLE or CANCELED", err)
	}
}

// Not parallel: it counts the goroutines of the process.
func TestStopLeavesNoGoroutine(t *testing.T) {
	before := runtime.NumGoroutine()
	for range 3 {
		p := start(t, Options{HTTPEndpoint: "127.0.0.1:0"}, func(context.Context, *expandRequest) (*expandResponse, error) {
			return &expandResponse{}, nil
		})
		if _, err := p.expand(t.Context(), &expandRequest{}); err != nil {
			t.Error(err)
		}
		if err := p.stopAndWait(t); err != nil {
			t.Error(err)
		}
		p.closeConn()
	}
	deadline := time.Now().Add(10 * time.Second)
	for runtime.NumGoroutine() > before {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			t.Fatalf("got %d goroutines, want %d as before:\n%s", runtime.NumGoroutine(), before,
				stacks[:runtime.Stack(stacks, true)])
		}
		runtime.Gosched()
	}
}

func TestRunRefusesInvalidOptions(t *testing.T) {
	t.Parallel()
	dir := socketDir(t)
	for name, options := range map[string]Options{
		"no identity": {Endpoint: filepath.Join(dir, "a.sock")},
		"bad socket":  {Endpoint: "nowhere", Identity: identity(t, healthy)},
		"bad HTTP":    {Endpoint: filepath.Join(dir, "b.sock"), HTTPEndpoint: "256.0.0.1:x", Identity: identity(t, healthy)},
	} {
		if err := Run(t.Context(), options); err == nil {
			t.Errorf("%s: got success, want an error", name)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("got files %v, %v, want none", left, err)
	}
}
