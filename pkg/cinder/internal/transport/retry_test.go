package transport

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

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
	call := &Call{Service: "cinder", Name: "volume_create", MaxAttempts: 3}
	_, _, err = send(t.Context(), newTransport(t, Options{Metrics: m}), "POST", address, call)
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
	_, _, err = send(t.Context(), newTransport(t, Options{Base: &counted, Timeout: 50 * time.Millisecond}),
		"GET", s.URL, &Call{MaxAttempts: 2})
	if err == nil || !strings.Contains(err.Error(), "no complete answer within 50ms") || counted.n != 2 {
		t.Errorf("a server that hangs: %v after %d attempts", err, counted.n)
	}
}
