package csiserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/csi-addons/spec/lib/go/reclaimspace"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/version"
)

// Options say what to serve, where, and how.
type Options struct {
	Endpoint     string // of the CSI socket: unix:///path, unix:/path, /path or tcp://host:port
	HTTPEndpoint string // host:port of /healthz, /livez and /metrics; empty: off

	Identity   *Identity            // required
	Controller csi.ControllerServer // nil: not served
	Node       csi.NodeServer       // nil: not served
	// GroupController and SnapshotMetadata serve the plugin's services of these names; nil: not
	// served.
	GroupController  csi.GroupControllerServer
	SnapshotMetadata csi.SnapshotMetadataServer
	// ReclaimSpaceController and ReclaimSpaceNode serve the services of csi-addons of these names on
	// the CSI socket, together with its Identity; nil: not served.
	ReclaimSpaceController reclaimspace.ReclaimSpaceControllerServer
	ReclaimSpaceNode       reclaimspace.ReclaimSpaceNodeServer

	Log         *slog.Logger  // nil: nothing is logged
	Metrics     *Metrics      // nil: a new one
	CallTimeout time.Duration // for calls without a deadline; <= 0: 5 min
	Grace       time.Duration // for running calls and Detached when the plugin stops; <= 0: DefaultGrace
	// Detached is the work of the services that continues after its call; the stop waits
	// for it. nil: there is none.
	Detached *operation.Tracker
	// Stopping ends what the plugin does besides its calls; nil: nothing. Run calls it once
	// during the stop, after the calls have ended and before it waits for Detached, so
	// Detached may get work from it. Stopping must return when ctx ends: with the grace
	// period, or minStoppingTime later if the calls have used the period up.
	Stopping func(ctx context.Context)
}

const (
	// defaultCallTimeout bounds a call whose caller sets no deadline. It is longer than
	// the deadlines of kubelet (2 min) and the sidecars.
	defaultCallTimeout = 5 * time.Minute
	// DefaultGrace is how long running calls, and work that continues after its call, may
	// take when the plugin stops. With KillTimeout it is shorter than the 30 s that
	// Kubernetes gives a pod.
	DefaultGrace = 20 * time.Second
	// KillTimeout is how long handlers may take to end after their cancellation.
	KillTimeout = 5 * time.Second

	// minStoppingTime is the least time that Options.Stopping gets. With DefaultGrace and
	// KillTimeout it still fits into the 30 s of Kubernetes.
	minStoppingTime = time.Second

	// maxStreams bounds the calls of one connection; sidecars use at most some hundred
	// workers.
	maxStreams = 1000
)

// server serves one plugin.
type server struct {
	Options // with the defaults filled in

	grpc     *grpc.Server
	serving  atomic.Pointer[net.Addr] // the address on which serve has begun; nil: not yet
	stopping atomic.Bool
	running  atomic.Int64 // number of running calls
}

// Run listens on the endpoints and serves until ctx is done. Then it accepts no new
// connections, refuses further calls with UNAVAILABLE, and waits for the running calls.
// After the grace period it cancels the calls that still run. Then it calls Stopping. For
// the rest of the grace period it waits for Detached, and logs the work that has not ended
// then. Run returns nil once all calls have ended. It returns an error if an endpoint cannot
// be opened or served, or if calls do not end within KillTimeout after their cancellation.
func Run(ctx context.Context, options Options) error {
	s, err := newServer(options) //nolint:contextcheck // calls and streams have their own
	if err != nil {
		return err
	}
	lis, err := listen(ctx, options.Endpoint)
	if err != nil {
		return err
	}
	s.Log.InfoContext(ctx, "serving",
		"driver", s.Identity.name, "version", version.String(), "endpoint", options.Endpoint)
	if lis.Addr().Network() == "tcp" {
		s.Log.WarnContext(ctx, "CSI over TCP is neither authenticated nor encrypted: use a unix socket outside of tests")
	}
	group, groupCtx := errgroup.WithContext(ctx)
	if options.HTTPEndpoint != "" {
		httpLis, err := new(net.ListenConfig).Listen(ctx, "tcp", options.HTTPEndpoint)
		if err != nil {
			return errors.Join(fmt.Errorf("cannot listen for HTTP on %s: %w", options.HTTPEndpoint, err), lis.Close())
		}
		s.Log.InfoContext(ctx, "serving HTTP", "address", httpLis.Addr().String())
		group.Go(func() error { return s.serveHTTP(groupCtx, httpLis) })
	}
	group.Go(func() error { return s.serve(groupCtx, lis) })
	return group.Wait()
}

func newServer(options Options) (*server, error) {
	if options.Identity == nil {
		return nil, errors.New("a CSI plugin must have an Identity service")
	}
	s := &server{Options: options}
	s.Log = cmp.Or(s.Log, slog.New(slog.DiscardHandler))
	if s.Metrics == nil {
		s.Metrics = NewMetrics()
	}
	if s.CallTimeout <= 0 {
		s.CallTimeout = defaultCallTimeout
	}
	if s.Grace <= 0 {
		s.Grace = DefaultGrace
	}
	s.grpc = grpc.NewServer(
		grpc.ChainUnaryInterceptor(s.interceptors()...),
		grpc.StreamInterceptor(streamInterceptor(s.interceptors())),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.ConnectionTimeout(30*time.Second),
		grpc.WaitForHandlers(true),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
	)
	csi.RegisterIdentityServer(s.grpc, options.Identity)
	if options.Controller != nil {
		csi.RegisterControllerServer(s.grpc, options.Controller)
	}
	if options.GroupController != nil {
		csi.RegisterGroupControllerServer(s.grpc, options.GroupController)
	}
	if options.SnapshotMetadata != nil {
		csi.RegisterSnapshotMetadataServer(s.grpc, options.SnapshotMetadata)
	}
	if options.Node != nil {
		csi.RegisterNodeServer(s.grpc, options.Node)
	}
	s.registerAddons()
	return s, nil
}

// serve serves CSI on lis until ctx is done, and then stops as Run describes. It may be
// called once.
func (s *server) serve(ctx context.Context, lis net.Listener) error {
	served := make(chan error, 1)
	addr := lis.Addr()
	s.serving.Store(&addr)
	go func() { served <- s.grpc.Serve(lis) }()
	select {
	case err := <-served:
		return fmt.Errorf("cannot serve gRPC on %s: %w", lis.Addr(), err)
	case <-ctx.Done():
	}
	s.stopping.Store(true)
	graceEnd := time.Now().Add(s.Grace)
	s.Log.InfoContext(ctx, "stopping",
		"running_calls", s.running.Load(), "detached_work", len(s.Detached.List()), "grace", s.Grace.String())
	err := s.stopCalls(ctx)
	// The waits below need a context of their own: the end of ctx began the stop.
	stopCtx := context.WithoutCancel(ctx)
	s.callStopping(stopCtx, graceEnd)
	s.awaitDetached(stopCtx, graceEnd)
	if err != nil {
		return err
	}
	// If ctx ended before grpc.Serve began, it returns ErrServerStopped.
	if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("cannot serve gRPC on %s: %w", lis.Addr(), err)
	}
	s.Log.InfoContext(ctx, "stopped")
	return nil
}

// stopCalls stops the gRPC server. It cancels the calls that still run after the grace
// period.
func (s *server) stopCalls(ctx context.Context) error {
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		s.grpc.GracefulStop()
	}()
	select {
	case <-stopped:
		return nil
	case <-time.After(s.Grace):
	}
	s.Log.WarnContext(ctx, "the grace period is over: canceling the calls that still run",
		"running_calls", s.running.Load())
	go s.grpc.Stop() // GracefulStop returns once the canceled calls have ended
	select {
	case <-stopped:
		return nil
	case <-time.After(KillTimeout):
		return fmt.Errorf("%d calls did not end within %s after their cancellation", s.running.Load(), KillTimeout)
	}
}

// callStopping calls Options.Stopping.
func (s *server) callStopping(ctx context.Context, graceEnd time.Time) {
	if s.Stopping == nil {
		return
	}
	if earliest := time.Now().Add(minStoppingTime); graceEnd.Before(earliest) {
		graceEnd = earliest
	}
	ctx, cancel := context.WithDeadline(ctx, graceEnd)
	defer cancel()
	s.Stopping(ctx)
}

// awaitDetached waits for detached work until the grace period ends. It logs the work for
// which it waits, and then the work that has not ended.
func (s *server) awaitDetached(ctx context.Context, graceEnd time.Time) {
	for _, w := range s.Detached.List() {
		s.Log.InfoContext(ctx, "waiting for work that continues after its call", detachedAttrs(w)...)
	}
	waitCtx, cancel := context.WithDeadline(ctx, graceEnd)
	defer cancel()
	for _, w := range s.Detached.Wait(waitCtx) {
		nextStep := "no action needed: the kernel completes its part, a program such as mkfs may end with the plugin, " +
			"and the next retry continues from there"
		s.Log.WarnContext(ctx, "the grace period is over: leaving work that has not ended",
			append(detachedAttrs(w), "next_step", nextStep)...)
	}
}

func detachedAttrs(w operation.Detached) []any {
	return []any{"work", w.What, "volume", w.ID, "age", time.Since(w.Since).Round(time.Millisecond).String()}
}
