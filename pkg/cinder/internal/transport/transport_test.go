package transport

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// scriptedServer gives one answer after the other, and repeats the last one.
type scriptedServer struct {
	*httptest.Server
	steps []http.HandlerFunc
	fresh atomic.Int64 // connections that were made

	mu     sync.Mutex
	bodies []string
}

// received returns the bodies of the requests so far.
func (s *scriptedServer) received() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.bodies)
}

func newScriptedServer(t *testing.T, steps ...http.HandlerFunc) *scriptedServer {
	t.Helper()
	s := &scriptedServer{steps: steps}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		s.mu.Lock()
		s.bodies = append(s.bodies, string(body))
		step := s.steps[min(len(s.bodies), len(s.steps))-1]
		s.mu.Unlock()
		step(w, r)
	}))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			s.fresh.Add(1)
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	return s
}

// answerWith answers with a status, headers (name, value, …) and the text "answer".
func answerWith(status int, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i+1 < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, "answer")
	}
}

// breakConnection breaks the connection; half: after a part of the answer.
func breakConnection(half bool) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if half {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "half")
			_ = http.NewResponseController(w).Flush()
		}
		panic(http.ErrAbortHandler)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newTransport(t *testing.T, o Options) *Transport {
	t.Helper()
	pool, err := NewPool(TLS{})
	must(t, err)
	t.Cleanup(pool.CloseIdleConnections)
	if o.Base == nil {
		o.Base = pool
	}
	if o.Backoff == 0 {
		o.Backoff = time.Millisecond
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return New(o)
}

// send makes a request and returns status, body and error.
func send(ctx context.Context, t *Transport, method, url string, call *Call) (int, string, error) {
	var body io.Reader
	if method == http.MethodPost {
		body = strings.NewReader("question")
	}
	req, err := http.NewRequestWithContext(WithCall(ctx, call), method, url, body)
	if err != nil {
		return 0, "", err
	}
	resp, err := t.RoundTrip(req)
	if err != nil {
		return 0, "", err
	}
	data, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(data), errors.Join(err, resp.Body.Close())
}

func TestOversizedAnswerFails(t *testing.T) {
	s := newScriptedServer(t, func(w http.ResponseWriter, _ *http.Request) {
		block := make([]byte, 1<<20)
		for range 65 {
			if _, err := w.Write(block); err != nil {
				return
			}
		}
	})
	_, _, err := send(t.Context(), newTransport(t, Options{}), "GET", s.URL, &Call{MaxAttempts: 1})
	if err == nil || !strings.Contains(err.Error(), "is longer than") {
		t.Errorf("an endless answer: %v", err)
	}
}

func TestConnectionsAreReused(t *testing.T) {
	s := newScriptedServer(t, answerWith(200))
	tr := newTransport(t, Options{})
	for range 20 {
		_, _, err := send(t.Context(), tr, "GET", s.URL, &Call{})
		must(t, err)
	}
	if n := s.fresh.Load(); n > 2 {
		t.Errorf("20 calls took %d connections", n)
	}
}

// No goroutine remains of a call that failed or was given up.
func TestNoGoroutineRemains(t *testing.T) {
	before := runtime.NumGoroutine()
	func() {
		release := make(chan struct{})
		ctx, giveUp := context.WithCancel(t.Context())
		defer giveUp()
		s := newScriptedServer(t, breakConnection(true), answerWith(503),
			func(http.ResponseWriter, *http.Request) { giveUp(); <-release })
		pool, err := NewPool(TLS{})
		must(t, err)
		defer pool.CloseIdleConnections()
		_, _, err = send(ctx, newTransport(t, Options{Base: pool}), "GET", s.URL, &Call{})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("a call that was given up: %v", err)
		}
		close(release)
		s.Close()
	}()
	for start := time.Now(); runtime.NumGoroutine() > before; {
		if time.Since(start) > time.Minute {
			stacks := make([]byte, 1<<16)
			t.Fatalf("%d goroutines stay:\n%s", runtime.NumGoroutine()-before, stacks[:runtime.Stack(stacks, true)])
		}
		runtime.Gosched()
	}
}
