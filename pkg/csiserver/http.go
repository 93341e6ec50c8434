package csiserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// healthTimeout bounds one check of /healthz; kubelet's probes wait for one
// second unless told otherwise, monitoring a bit longer.
const healthTimeout = 10 * time.Second

// HTTPHandler serves /healthz (200, or 503 with the reason, by the check
// behind Probe), /livez (200 while Probe is answered, whatever it says) and
// /metrics.
func (s *Server) HTTPHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", s.metrics.Handler())
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /livez", s.livez)
	return mux
}

func (s *Server) healthz(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), healthTimeout)
	defer cancel()
	err := s.identity.CheckHealth(ctx)
	if s.stopping.Load() {
		err = errors.New("the plugin is stopping")
	}
	s.reply(ctx, w, "/healthz", err)
}

// reply answers a check: 200, or 503 with err.
func (s *Server) reply(ctx context.Context, w http.ResponseWriter, check string, err error) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	text := "ok"
	if err != nil {
		text = err.Error()
		s.log.WarnContext(ctx, "not healthy", "check", check, "error", text)
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	if _, err := fmt.Fprintln(w, text); err != nil {
		s.log.DebugContext(ctx, "the reply to a check is lost", "check", check, "error", err.Error())
	}
}

// serveHTTP serves until ctx is done.
func (s *Server) serveHTTP(ctx context.Context, lis net.Listener) error {
	server := &http.Server{
		Handler:           s.HTTPHandler(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      2 * healthTimeout,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(lis) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve HTTP: %w", err)
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
