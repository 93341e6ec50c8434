package csiserver

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
)

func TestHealthzAndMetrics(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var healthErr error
	options := Options{Identity: identity(t, func(context.Context) error {
		mu.Lock()
		defer mu.Unlock()
		return healthErr
	})}
	s, err := newServer(options)
	if err != nil {
		t.Fatal(err)
	}
	lis, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.serveHTTP(ctx, lis) }()
	fetch := func(path string) (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+lis.Addr().String()+path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err := errors.Join(err, resp.Body.Close()); err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	if code, body := fetch("/healthz"); code != http.StatusOK || body != "ok\n" {
		t.Errorf("healthz: got %d %q", code, body)
	}
	if code, body := fetch("/metrics"); code != http.StatusOK || !strings.Contains(body, "go_goroutines") {
		t.Errorf("metrics: got %d %q, want 200", code, body)
	}
	if code, _ := fetch("/other"); code != http.StatusNotFound {
		t.Errorf("other: got %d, want 404", code)
	}
	mu.Lock()
	healthErr = errors.New("the disk is on fire")
	mu.Unlock()
	if code, body := fetch("/healthz"); code != http.StatusServiceUnavailable || body != "the disk is on fire\n" {
		t.Errorf("healthz: got %d %q", code, body)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
