package csiserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"github.com/growvol/growvol/pkg/operation"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
)

const (
	// DefaultCallTimeout bounds a call whose caller gives no deadline. It is
	// longer than what kubelet (2 min) and the sidecars give.
	DefaultCallTimeout = 5 * time.Minute
	// DefaultGrace is how long running calls, and work that has outlived its
	// call, may go on after the stop. It leaves KillTimeout and more of the 30 s
	// that Kubernetes gives a pod.
	DefaultGrace = 20 * time.Second
	// KillTimeout is how long handlers may take to end once they are canceled.
	KillTimeout = 5 * time.Second

	// stoppingTime is what Options.Stopping has at least. With the grace period and
	// KillTimeout it fits into the 30 s too.
	stoppingTime = time.Second

	// maxStreams bounds the calls of one connection; sidecars use at most some
	// hundred workers.
	maxStreams = 1000
)

// Options say what to serve, where, and how.
type Options struct {
	Endpoint     string // of the CSI socket, see ParseEndpoint; used by Run
	HTTPEndpoint string // host:port of /healthz, /livez and /metrics; empty: off; used by Run

	Identity   *Identity            // required
	Controller csi.ControllerServer // nil: not served
	Node       csi.NodeServer       // nil: not served

	Log         *slog.Logger  // nil: nothing is logged
	Metrics     *Metrics      // nil: NewMetrics
	CallTimeout time.Duration // for calls without a deadline; 0: DefaultCallTimeout
	Grace       time.Duration // for running calls and Detached at the stop; 0: DefaultGrace
	// Detached is the work of the services that outlives its call, for which the
	// stop waits; nil: there is none.
	Detached *operation.Tracker
	// Stopping ends what the plugin does by itself, beside the calls; nil: nothing. It
	// is called once at the stop, after the calls have ended and before the wait for
	// Detached, so that work it leaves there is waited for. It must return when ctx
	// ends: with the grace period, or stoppingTime later if the calls have used it up.
	Stopping func(ctx context.Context)
}

// Server serves one plugin.
type Server struct {
	identity    *Identity
	log         *slog.Logger
	metrics     *Metrics
	callTimeout time.Duration
	grace       time.Duration
	detached    *operation.Tracker
	stopOwn     func(ctx context.Context)

	grpc     *grpc.Server
	serving  atomic.Pointer[net.Addr] // where; nil: not yet
	stopping atomic.Bool
	running  atomic.Int64
}

// Run listens on the endpoints and serves until ctx is done; see Serve.
func Run(ctx context.Context, options Options) error {
	s, err := New(options)
	if err != nil {
		return err
	}
	lis, err := Listen(ctx, options.Endpoint)
	if err != nil {
		return err
	}
	s.log.InfoContext(ctx, "serving", "driver", s.identity.name, "version", s.identity.version, "endpoint", options.Endpoint)
	if lis.Addr().Network() == "tcp" {
		s.log.WarnContext(ctx, "CSI over TCP is neither authenticated nor encrypted: use a unix socket outside of tests")
	}
	group, groupCtx := errgroup.WithContext(ctx)
	if options.HTTPEndpoint != "" {
		httpLis, err := new(net.ListenConfig).Listen(ctx, "tcp", options.HTTPEndpoint)
		if err != nil {
			return errors.Join(fmt.Errorf("listen for HTTP on %s: %w", options.HTTPEndpoint, err), lis.Close())
		}
		s.log.InfoContext(ctx, "serving HTTP", "address", httpLis.Addr().String())
		group.Go(func() error { return s.serveHTTP(groupCtx, httpLis) })
	}
	group.Go(func() error { return s.Serve(groupCtx, lis) })
	return group.Wait()
}

// New makes a server of the services.
func New(options Options) (*Server, error) {
	if options.Identity == nil {
		return nil, errors.New("a CSI plugin must have an Identity service")
	}
	s := &Server{
		identity:    options.Identity,
		log:         options.Log,
		metrics:     options.Metrics,
		callTimeout: options.CallTimeout,
		grace:       options.Grace,
		detached:    options.Detached,
		stopOwn:     options.Stopping,
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.metrics == nil {
		s.metrics = NewMetrics()
	}
	if s.callTimeout <= 0 {
		s.callTimeout = DefaultCallTimeout
	}
	if s.grace <= 0 {
		s.grace = DefaultGrace
	}
	s.grpc = grpc.NewServer(
		grpc.ChainUnaryInterceptor(s.interceptors()...),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.ConnectionTimeout(30*time.Second),
		grpc.WaitForHandlers(true),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
	)
	csi.RegisterIdentityServer(s.grpc, options.Identity)
	if options.Controller != nil {
		csi.RegisterControllerServer(s.grpc, options.Controller)
	}
	if options.Node != nil {
		csi.RegisterNodeServer(s.grpc, options.Node)
	}
	return s, nil
}

// Serve serves on lis until ctx is done. Then it accepts nothing new, refuses
// further calls with UNAVAILABLE, and lets the running ones end. Those that
// still run after the grace period see their contexts canceled. Then it calls
// Stopping. What is left of the grace period belongs to work that has outlived its call; the log names
// the work that it leaves. Serve returns nil once all calls have ended, and an
// error if some ignore the cancellation. A server serves once.
func (s *Server) Serve(ctx context.Context, lis net.Listener) error {
	served := make(chan error, 1)
	addr := lis.Addr()
	s.serving.Store(&addr)
	go func() { served <- s.grpc.Serve(lis) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve gRPC on %s: %w", lis.Addr(), err)
	case <-ctx.Done():
	}
	s.stopping.Store(true)
	graceEnds := time.Now().Add(s.grace)
	s.log.InfoContext(ctx, "stopping", "running_calls", s.running.Load(), "detached_work", len(s.detached.List()), "grace", s.grace.String())
	err := s.stop(ctx)
	s.callStopping(ctx, graceEnds)
	s.awaitDetached(ctx, graceEnds)
	if err != nil {
		return err
	}
	// A stop that came before Serve had begun makes it return ErrServerStopped.
	if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve gRPC on %s: %w", lis.Addr(), err)
	}
	s.log.InfoContext(ctx, "stopped")
	return nil
}

// stop ends the gRPC server, first kindly, then by canceling the calls.
func (s *Server) stop(ctx context.Context) error {
	graceful := make(chan struct{})
	go func() {
		defer close(graceful)
		s.grpc.GracefulStop()
	}()
	if within(s.grace, graceful) {
		return nil
	}
	s.log.WarnContext(ctx, "the grace period is over: canceling the calls that still run", "running_calls", s.running.Load())
	killed := make(chan struct{})
	go func() {
		defer close(killed)
		s.grpc.Stop()
		<-graceful
	}()
	if within(KillTimeout, killed) {
		return nil
	}
	return fmt.Errorf("%d calls did not end within %s after their cancellation", s.running.Load(), KillTimeout)
}

// callStopping ends what the plugin does beside its calls.
func (s *Server) callStopping(ctx context.Context, graceEnds time.Time) {
	if s.stopOwn == nil {
		return
	}
	if least := time.Now().Add(stoppingTime); graceEnds.Before(least) {
		graceEnds = least
	}
	// ctx has ended: its end began the stop.
	ctx, cancel := context.WithDeadline(context.WithoutCancel(ctx), graceEnds)
	defer cancel()
	s.stopOwn(ctx)
}

// awaitDetached waits for work that has outlived its call, and logs what it
// waits for and what still goes on when the grace period ends.
func (s *Server) awaitDetached(ctx context.Context, graceEnds time.Time) {
	for _, w := range s.detached.List() {
		s.log.InfoContext(ctx, "waiting for work that has outlived its call", detachedAttrs(w)...)
	}
	// ctx has ended: its end began the stop.
	wait, cancel := context.WithDeadline(context.WithoutCancel(ctx), graceEnds)
	defer cancel()
	for _, w := range s.detached.Wait(wait) {
		s.log.WarnContext(ctx, "the grace period is over: leaving work that has not ended", append(detachedAttrs(w), "next_step",
			"none: the kernel ends what it has begun, a program such as mkfs may end with the plugin, and the retry continues from there")...)
	}
}

func detachedAttrs(w operation.Detached) []any {
	return []any{"work", w.What, "volume", w.ID, "age", time.Since(w.Since).Round(time.Millisecond).String()}
}

// within waits for done, but no longer than d.
func within(d time.Duration, done <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}
