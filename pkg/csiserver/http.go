package csiserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// httpHandler serves /healthz (200, or 503 with the reason, by the check behind Probe),
// /livez (200 while the server answers Probe, whatever the answer is) and /metrics.
func (s *server) httpHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", s.Metrics.handler())
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /livez", s.livez)
	return mux
}

const (
	// healthTimeout bounds one check of /healthz. Monitoring waits about that long;
	// kubelet's probes wait for one second by default.
	healthTimeout = 10 * time.Second
	// liveTimeout bounds one check of /livez. It is shorter than the 10 s that the chart's
	// probes wait, so that kubelet gets the reason.
	liveTimeout = 8 * time.Second
)

func (s *server) healthz(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), healthTimeout)
	defer cancel()
	err := s.Identity.probe(ctx)
	if s.stopping.Load() {
		err = errors.New("the plugin is stopping")
	}
	s.reply(ctx, w, "/healthz", err)
}

// livez checks only whether the plugin's gRPC server answers Probe in time: a restart
// helps a plugin that hangs, but not one that waits for something else.
func (s *server) livez(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), liveTimeout)
	defer cancel()
	s.reply(ctx, w, "/livez", s.checkLive(ctx))
}

// checkLive calls Probe over a new connection, as the sidecars do when they connect: it
// fails also when no client can connect to the socket any more.
func (s *server) checkLive(ctx context.Context) error {
	addr := s.serving.Load()
	if addr == nil {
		return errors.New("the plugin does not serve yet")
	}
	conn, err := grpc.NewClient(dialTarget(*addr),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy())
	if err != nil {
		return fmt.Errorf("cannot connect to the plugin's own socket: %w", err)
	}
	defer func() { _ = conn.Close() }() // nothing is lost
	_, err = csi.NewIdentityClient(conn).Probe(ctx, &csi.ProbeRequest{})
	if err == nil || status.Code(err) == codes.FailedPrecondition {
		return nil // FAILED_PRECONDITION is the answer of a plugin that is not healthy
	}
	return fmt.Errorf("the plugin does not answer Probe on %s: %w", *addr, err)
}

// dialTarget returns the gRPC name of an address.
func dialTarget(addr net.Addr) string {
	if addr.Network() == "unix" {
		return "unix:" + addr.String()
	}
	return "passthrough:///" + addr.String()
}

// reply answers a check: 200, or 503 with err.
func (s *server) reply(ctx context.Context, w http.ResponseWriter, check string, err error) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	text := "ok"
	if err != nil {
		text = err.Error()
		s.Log.WarnContext(ctx, "a health check failed", "check", check, "error", text)
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	if _, err := fmt.Fprintln(w, text); err != nil {
		s.Log.DebugContext(ctx, "cannot send the result of a health check", "check", check, "error", err.Error())
	}
}

// serveHTTP serves httpHandler on lis until ctx is done, and then stops within KillTimeout.
func (s *server) serveHTTP(ctx context.Context, lis net.Listener) error {
	server := &http.Server{
		Handler:           s.httpHandler(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      2 * healthTimeout,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(s.Log.Handler(), slog.LevelWarn),
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(lis) }()
	select {
	case err := <-served:
		return fmt.Errorf("cannot serve HTTP: %w", err)
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), KillTimeout)
	defer cancel()
	err := server.Shutdown(stop)
	if err != nil {
		err = errors.Join(err, server.Close())
	}
	if serveErr := <-served; !errors.Is(serveErr, http.ErrServerClosed) {
		err = errors.Join(err, serveErr)
	}
	return err
}
