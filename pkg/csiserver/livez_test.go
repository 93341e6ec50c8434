package csiserver

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/volume"
)

// What Probe says about health does not make /livez fail: a restart would not mend
// it. /livez fails when nobody gets an answer of Probe.
func TestLivezIsAboutThePluginAlone(t *testing.T) {
	t.Parallel()
	type check func(context.Context) error
	var probe atomic.Pointer[check]
	say := func(c check) { probe.Store(&c) }
	say(func(context.Context) error { return nil })
	s, err := newServer(Options{Identity: identity(t, func(ctx context.Context) error { return (*probe.Load())(ctx) })})
	if err != nil {
		t.Fatal(err)
	}
	livez := func(limit time.Duration) (int, string) {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		reply := httptest.NewRecorder()
		s.httpHandler().ServeHTTP(reply, httptest.NewRequestWithContext(ctx, http.MethodGet, "/livez", http.NoBody))
		return reply.Code, reply.Body.String()
	}
	if code, body := livez(time.Minute); code != http.StatusServiceUnavailable || body != "the plugin does not serve yet\n" {
		t.Errorf("before Serve: %d %q", code, body)
	}
	path := filepath.Join(socketDir(t), "csi.sock")
	lis, err := listen(t.Context(), "unix://"+path)
	if err != nil {
		t.Fatal(err)
	}
	serveUntilEnd(t, s, lis)
	for name, c := range map[string]check{
		"healthy":     func(context.Context) error { return nil },
		"not ready":   func(context.Context) error { return volume.Errorf(volume.KindInProgress, "no login yet") },
		"not healthy": func(context.Context) error { return errors.New("the disk is on fire") },
	} {
		say(c)
		if code, body := livez(time.Minute); code != http.StatusOK || body != "ok\n" {
			t.Errorf("%s: %d %q, want 200 ok", name, code, body)
		}
	}
	say(func(context.Context) error { panic("kaboom") })
	if code, body := livez(time.Minute); code != http.StatusServiceUnavailable || !strings.Contains(body, "Probe") {
		t.Errorf("a Probe that panics: %d %q, want 503", code, body)
	}
	release := make(chan struct{})
	say(func(context.Context) error { <-release; return nil })
	if code, body := livez(100 * time.Millisecond); code != http.StatusServiceUnavailable || !strings.Contains(body, "DeadlineExceeded") {
		t.Errorf("a Probe that hangs: %d %q, want 503", code, body)
	}
	close(release)
	say(func(context.Context) error { return nil })
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if code, body := livez(time.Minute); code != http.StatusServiceUnavailable || !strings.Contains(body, path) {
		t.Errorf("without its socket: %d %q, want 503 with the path", code, body)
	}
}

// A proxy of the environment is not asked for the plugin's own address.
func TestLivezOverTCP(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	s, err := newServer(Options{Identity: identity(t, nil)})
	if err != nil {
		t.Fatal(err)
	}
	lis, err := new(net.ListenConfig).Listen(t.Context(), "tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	serveUntilEnd(t, s, lis)
	if err := s.checkLive(t.Context()); err != nil {
		t.Error(err)
	}
}

// serveUntilEnd serves on lis until the test ends. It returns when /livez knows where.
func serveUntilEnd(t *testing.T, s *server, lis net.Listener) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.serve(ctx, lis) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	for deadline := time.Now().Add(10 * time.Second); s.serving.Load() == nil; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatal("Serve does not begin")
		}
	}
}
