package csiserver

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/volume"
)

// /livez fails when Probe does not answer, but not when Probe answers that the plugin is
// not healthy: a restart would not help then.
func TestLivezIgnoresHealth(t *testing.T) {
	t.Parallel()
	type check func(context.Context) error
	var probe atomic.Pointer[check]
	setProbe := func(c check) { probe.Store(&c) }
	setProbe(func(context.Context) error { return nil })
	s, err := newServer(Options{Identity: identity(t, func(ctx context.Context) error { return (*probe.Load())(ctx) })})
	if err != nil {
		t.Fatal(err)
	}
	livez := func(timeout time.Duration) (int, string) {
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		defer cancel()
		reply := get(ctx, s.httpHandler(), "/livez")
		return reply.Code, reply.Body.String()
	}
	if code, body := livez(time.Minute); code != http.StatusServiceUnavailable ||
		body != "the plugin does not serve yet\n" {
		t.Errorf("before serve: got %d %q, want 503", code, body)
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
		setProbe(c)
		if code, body := livez(time.Minute); code != http.StatusOK || body != "ok\n" {
			t.Errorf("%s: got %d %q, want 200 ok", name, code, body)
		}
	}
	setProbe(func(context.Context) error { panic("kaboom") })
	if code, body := livez(time.Minute); code != http.StatusServiceUnavailable || !strings.Contains(body, "Probe") {
		t.Errorf("a Probe that panics: got %d %q, want 503", code, body)
	}
	release := make(chan struct{})
	setProbe(func(context.Context) error { <-release; return nil })
	if code, body := livez(100 * time.Millisecond); code != http.StatusServiceUnavailable ||
		!strings.Contains(body, "DeadlineExceeded") {
		t.Errorf("a Probe that hangs: got %d %q, want 503", code, body)
	}
	close(release)
	setProbe(func(context.Context) error { return nil })
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if code, body := livez(time.Minute); code != http.StatusServiceUnavailable || !strings.Contains(body, path) {
		t.Errorf("without the socket: got %d %q, want 503 with the path", code, body)
	}
}

func TestLivezIgnoresProxy(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	s, err := newServer(Options{Identity: identity(t, healthy)})
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

// serveUntilEnd serves on lis until the test ends. It returns when /livez can connect.
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
			t.Fatal("the server does not serve after 10 s")
		}
	}
}
