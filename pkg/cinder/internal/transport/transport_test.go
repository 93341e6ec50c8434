package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
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

	"github.com/prometheus/client_golang/prometheus"
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

func TestRequestsAreRepeatedOnlyWhereSafe(t *testing.T) {
	all := []string{"GET", "HEAD", "DELETE", "POST", "POST repeatable"}
	none := []string{}
	for _, c := range []struct {
		name  string
		first http.HandlerFunc
		again []string
	}{
		{"429", answerWith(429), all},
		{"413 rate limit", answerWith(413, "Retry-After", "1"), all},
		{"413 quota", answerWith(413, "Retry-After", "0"), none},
		{"413", answerWith(413), none},
		{"503", answerWith(503), []string{"GET", "HEAD", "DELETE", "POST repeatable"}},
		{"503 maintenance", answerWith(503, "Retry-After", "0"), all},
		{"502", answerWith(502), []string{"GET", "HEAD", "DELETE", "POST repeatable"}},
		{"504", answerWith(504), []string{"GET", "HEAD", "DELETE", "POST repeatable"}},
		{"408", answerWith(408), []string{"GET", "HEAD", "DELETE", "POST repeatable"}},
		{"500", answerWith(500), []string{"GET", "HEAD", "POST repeatable"}},
		{"501", answerWith(501), none},
		{"400", answerWith(400), none},
		{"401", answerWith(401), none},
		{"404", answerWith(404), none},
		{"409", answerWith(409), none},
		{"lost", breakConnection(false), []string{"GET", "HEAD", "DELETE", "POST repeatable"}},
		{"cut short", breakConnection(true), []string{"GET", "DELETE", "POST repeatable"}},
	} {
		for _, method := range all {
			if method == "HEAD" && c.name == "cut short" {
				continue // it has no body
			}
			t.Run(c.name+" "+method, func(t *testing.T) {
				t.Parallel()
				s := newScriptedServer(t, c.first, answerWith(200))
				verb, repeatable := strings.CutSuffix(method, " repeatable")
				status, _, err := send(t.Context(), newTransport(t, Options{}), verb, s.URL, &Call{Repeatable: repeatable})
				want := 1
				for _, m := range c.again {
					if m == method {
						want = 2
					}
				}
				if len(s.received()) != want {
					t.Errorf("sent %d times, want %d", len(s.received()), want)
				}
				if want == 2 && (err != nil || status != 200) {
					t.Errorf("the repetition gave %d, %v", status, err)
				}
				for _, b := range s.received() {
					if verb == "POST" && b != "question" {
						t.Errorf("a repetition carried %q", b)
					}
				}
			})
		}
	}
}

// A refused connection carries no request, so even a creation is repeated.
func TestRefusedConnectionIsRetriedForAnyMethod(t *testing.T) {
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	address := "http://" + l.Addr().String()
	must(t, l.Close())
	reg := prometheus.NewRegistry()
	m, err := NewMetrics(reg)
	must(t, err)
	call := &Call{Service: "cinder", Name: "volume_create"}
	_, _, err = send(t.Context(), newTransport(t, Options{Metrics: m, MaxAttempts: 3}), "POST", address, call)
	if err == nil || call.MayBeDone {
		t.Errorf("error %v, doubt %v", err, call.MayBeDone)
	}
	if got := series(t, reg)["growvol_openstack_request_retries_total volume_create cinder"]; got != 2 {
		t.Errorf("%v retries, want 2", got)
	}
}

func TestLostAttemptMayBeDone(t *testing.T) {
	for name, c := range map[string]struct {
		steps []http.HandlerFunc
		want  bool
	}{
		"answered": {[]http.HandlerFunc{answerWith(404)}, false},
		"lost":     {[]http.HandlerFunc{breakConnection(false), answerWith(404)}, true},
		"502":      {[]http.HandlerFunc{answerWith(502), answerWith(404)}, true},
		"429":      {[]http.HandlerFunc{answerWith(429), answerWith(404)}, false},
	} {
		s, call := newScriptedServer(t, c.steps...), &Call{}
		if _, _, err := send(t.Context(), newTransport(t, Options{}), "DELETE", s.URL, call); err != nil ||
			call.MayBeDone != c.want {
			t.Errorf("%s: doubt %v, want %v (%v)", name, call.MayBeDone, c.want, err)
		}
	}
}

func TestRetryAfterIsHonored(t *testing.T) {
	for _, seconds := range []bool{true, false} {
		start := time.Now()
		after, until := "1", start.Add(time.Second)
		if !seconds {
			until = start.Add(2 * time.Second).UTC().Truncate(time.Second)
			after = until.Format(http.TimeFormat)
		}
		s := newScriptedServer(t, answerWith(503, "Retry-After", after), answerWith(200))
		status, _, err := send(t.Context(), newTransport(t, Options{}), "GET", s.URL, &Call{})
		if now := time.Now(); err != nil || status != 200 || now.Before(until) || now.Sub(until) > 5*time.Second {
			t.Errorf("Retry-After %s: %d, %v after %s", after, status, err, now.Sub(start))
		}
	}
	// More than MaxWait is not waited for, whatever the context allows.
	s := newScriptedServer(t, answerWith(503, "Retry-After", "3600"))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Hour)
	defer cancel()
	time.AfterFunc(5*time.Second, cancel)
	status, _, err := send(ctx, newTransport(t, Options{}), "GET", s.URL, &Call{})
	if err != nil || ctx.Err() != nil || status != 503 || len(s.received()) != 1 {
		t.Errorf("a pause of an hour: %d, %v, sent %d times", status, err, len(s.received()))
	}
}

func TestRetryAfterHeader(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"0": 0, " 7 ": 7 * time.Second, "Fri, 02 Jan 2026 03:04:15 GMT": 10 * time.Second, "Thu, 01 Jan 2026 03:04:15 GMT": 0,
	} {
		if got, told := RetryAfter(http.Header{"Retry-After": {text}}, now); !told || got != want {
			t.Errorf("%q: %s, %v; want %s", text, got, told, want)
		}
	}
	for _, text := range []string{"", "soon", "-1", "1.5", "99999999999"} {
		if got, told := RetryAfter(http.Header{"Retry-After": {text}}, now); told {
			t.Errorf("%q reads as %s", text, got)
		}
	}
}

func TestContextEndsRetries(t *testing.T) {
	s := newScriptedServer(t, answerWith(503))
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
	defer cancel()
	// A pause that the context does not last for is not begun.
	status, _, err := send(ctx, newTransport(t, Options{Backoff: 10 * time.Second}), "GET", s.URL, &Call{})
	if err != nil || status != 503 || ctx.Err() != nil || len(s.received()) != 1 {
		t.Errorf("%d, %v (%v) and %d attempts", status, err, ctx.Err(), len(s.received()))
	}
	gone, leave := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, leave)
	start := time.Now()
	_, _, _ = send(gone, newTransport(t, Options{Backoff: 10 * time.Second}), "GET", s.URL, &Call{})
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("a caller that left was waited for %s", took)
	}
}

func TestAttemptEndsAtItsTimeout(t *testing.T) {
	hang := func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(200)
		_, _ = io.WriteString(w, "slowly")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}
	s := newScriptedServer(t, hang, answerWith(200))
	status, body, err := send(t.Context(), newTransport(t, Options{Timeout: 100 * time.Millisecond}), "GET", s.URL,
		&Call{})
	if err != nil || status != 200 || body != "answer" {
		t.Errorf("after a hanging attempt: %d %q, %v", status, body, err)
	}
	s = newScriptedServer(t, hang)
	pool, err := NewPool(TLS{})
	must(t, err)
	defer pool.CloseIdleConnections()
	counted := counter{next: pool} // a busy server may not have seen them
	_, _, err = send(t.Context(), newTransport(t, Options{Base: &counted, Timeout: 50 * time.Millisecond, MaxAttempts: 2}),
		"GET", s.URL, &Call{})
	if err == nil || !strings.Contains(err.Error(), "no complete answer within 50ms") || counted.n != 2 {
		t.Errorf("a server that hangs: %v after %d attempts", err, counted.n)
	}
}

func TestLogAndMetrics(t *testing.T) {
	var log bytes.Buffer
	reg := prometheus.NewRegistry()
	m, err := NewMetrics(reg)
	must(t, err)
	s := newScriptedServer(t, breakConnection(false), answerWith(503, "X-Openstack-Request-Id", "req-1"),
		answerWith(200, "X-Compute-Request-Id", "req-2"))
	tr := newTransport(t, Options{Metrics: m, Log: slog.New(slog.NewTextHandler(&log,
		&slog.HandlerOptions{Level: slog.LevelDebug}))})
	req, err := http.NewRequestWithContext(WithCall(t.Context(), &Call{Service: "nova", Name: "server_get"}),
		http.MethodGet, s.URL+"/v2.1/servers/x?all=1", nil)
	must(t, err)
	req.Header.Set("X-Auth-Token", "gAAAAsecret")
	resp, err := tr.RoundTrip(req)
	must(t, err)
	must(t, resp.Body.Close())
	text := log.String()
	for _, want := range []string{
		`service=nova call=server_get method=GET path=/v2.1/servers/x attempt=1`, "error=EOF", "attempt=2",
		"status=503 openstack_request_id=req-1", "attempt=3", "status=200 openstack_request_id=req-2", "took=",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the log lacks %q:\n%s", want, text)
		}
	}
	if strings.Contains(text, "gAAAA") {
		t.Errorf("the log holds a token:\n%s", text)
	}
	const duration = "growvol_openstack_request_duration_seconds server_get"
	want := map[string]float64{
		duration + " 2xx nova": 1, duration + " 5xx nova": 1, duration + " lost nova": 1,
		"growvol_openstack_requests_in_flight nova":               0,
		"growvol_openstack_request_retries_total server_get nova": 2,
	}
	if got := series(t, reg); !maps.Equal(got, want) {
		t.Errorf("the metrics read %v, want %v", got, want)
	}
	if _, err := NewMetrics(reg); err == nil {
		t.Error("the metrics are registered twice")
	}
}

// series reads the metrics: name and label values (in the order of the labels' names), and the
// value or the number of observations.
func series(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	must(t, err)
	all := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			all[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return all
}

func TestResultClasses(t *testing.T) {
	gone, leave := context.WithCancel(t.Context())
	leave()
	timeout := fmt.Errorf("outer: %w", &net.OpError{Op: "read", Err: context.DeadlineExceeded})
	for want, got := range map[string]string{
		"2xx": resultClass(t.Context(), &http.Response{StatusCode: 204}, nil), "canceled": resultClass(gone, nil, io.EOF),
		"timeout": resultClass(t.Context(), nil, timeout), "lost": resultClass(t.Context(), nil, io.EOF),
	} {
		if got != want {
			t.Errorf("class %s, want %s", got, want)
		}
	}
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
	_, _, err := send(t.Context(), newTransport(t, Options{MaxAttempts: 1}), "GET", s.URL, &Call{})
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
		if time.Since(start) > 5*time.Second {
			stacks := make([]byte, 1<<16)
			t.Fatalf("%d goroutines stay:\n%s", runtime.NumGoroutine()-before, stacks[:runtime.Stack(stacks, true)])
		}
		runtime.Gosched()
	}
}

func TestUnknownCallIsCountedAsOther(t *testing.T) {
	if c := callOf(t.Context()); c.Service != "other" || c.Name != "other" {
		t.Errorf("%+v", c)
	}
}
