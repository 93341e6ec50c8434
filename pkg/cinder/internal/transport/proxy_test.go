package transport

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

// A request that a proxy refuses to pass on was never sent, so also a creation is repeated. The
// error has the status of the proxy, but not its credentials.
func TestProxyThatDoesNotConnect(t *testing.T) {
	t.Parallel()
	s := newScriptedServer(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect {
			t.Errorf("the proxy is asked to %s", r.Method)
		}
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	pool, err := NewPool(TLS{})
	must(t, err)
	t.Cleanup(pool.CloseIdleConnections)
	pool.Proxy = func(*http.Request) (*url.URL, error) {
		proxy, err := url.Parse(s.URL)
		proxy.User = url.UserPassword("u", "s3cr3t")
		return proxy, err
	}
	call := &Call{MaxAttempts: 3}
	_, _, err = send(t.Context(), newTransport(t, Options{Base: pool}), http.MethodPost, "https://cinder.invalid/", call)
	var refused *ProxyError
	if !errors.As(err, &refused) || refused.Status != http.StatusServiceUnavailable ||
		strings.Contains(err.Error(), "s3cr3t") {
		t.Errorf("got %v, want the proxy's 503 without its credentials", err)
	}
	if n := len(s.received()); n != 3 || call.MayBeDone {
		t.Errorf("%d attempts, doubt %t; want 3 and no doubt", n, call.MayBeDone)
	}
	// Nobody listens on the first port; that of a closed server may be another test's.
	pool.Proxy = func(*http.Request) (*url.URL, error) { return url.Parse("http://127.0.0.1:1") }
	call = &Call{MaxAttempts: 2}
	_, _, err = send(t.Context(), newTransport(t, Options{Base: pool}), http.MethodPost, "https://cinder.invalid/", call)
	if !IsDialError(err) || call.MayBeDone {
		t.Errorf("a proxy that is down: %v, doubt %t; want an error of the connection and no doubt", err, call.MayBeDone)
	}
}

// A proxy that works is used.
func TestProxyThatConnects(t *testing.T) {
	t.Parallel()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_,
			_ = io.WriteString(w, "answer")
	}))
	t.Cleanup(server.Close)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		to, err := new(net.Dialer).DialContext(r.Context(), "tcp", r.Host)
		if err != nil {
			t.Error(err)
			return
		}
		from, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(from, "HTTP/1.1 200 Connection established\r\n\r\n")
		go func() { _, _ = io.Copy(to, from); _ = to.Close() }()
		_, _ = io.Copy(from, to)
		_ = from.Close()
	}))
	t.Cleanup(proxy.Close)
	pool, err := NewPool(TLS{Insecure: true})
	must(t, err)
	t.Cleanup(pool.CloseIdleConnections)
	pool.Proxy = func(*http.Request) (*url.URL, error) { return url.Parse(proxy.URL) }
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, body, err := send(ctx, newTransport(t, Options{Base: pool}), http.MethodGet, server.URL, &Call{}); err != nil ||
		body != "answer" {
		t.Errorf("got %q, %v", body, err)
	}
}

// A slow server is not taken for a dead one: it acknowledges probes and pings meanwhile. The
// times are those of production.
func TestSlowServerIsNotCutOff(t *testing.T) {
	t.Parallel()
	for name, two := range map[string]bool{"HTTP/1.1": false, "HTTP/2.0": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool, err := NewPool(TLS{Insecure: true})
			must(t, err)
			t.Cleanup(pool.CloseIdleConnections)
			wait := ackTimeout + 2*time.Second
			if two {
				// Shorter times would take a process that stands still for a moment for a dead one.
				wait = 2 * (pool.HTTP2.SendPingTimeout + pool.HTTP2.PingTimeout)
			}
			s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				select {
				case <-time.After(wait):
				case <-r.Context().Done():
				}
				_, _ = io.WriteString(w, r.Proto)
			}))
			s.EnableHTTP2 = two
			s.StartTLS()
			t.Cleanup(s.Close)
			ctx, cancel := context.WithTimeout(t.Context(), 2*wait)
			defer cancel()
			_, body, err := send(ctx, newTransport(t, Options{Base: pool}), http.MethodPost, s.URL, &Call{MaxAttempts: 1})
			if err != nil || body != name {
				t.Errorf("got %q, %v", body, err)
			}
		})
	}
}
