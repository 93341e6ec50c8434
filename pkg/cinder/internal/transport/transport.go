// Package transport carries requests to OpenStack: over pooled connections,
// with a time limit for each attempt, with retries where a repetition is safe,
// with metrics, and with a debug log that holds no secret (neither bodies nor
// headers, save the id that OpenStack gives to each request).
package transport

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/growvol/growvol/pkg/operation"
)

// Call says what a request is for, and how it went.
type Call struct {
	Service string // label of the metrics
	Name    string // label of the metrics: one of a fixed set
	// Repeatable allows a POST to be repeated when its answer was lost.
	Repeatable bool
	// Attempts and Timeout are those of Options for this call; zero: no others.
	Attempts int
	Timeout  time.Duration

	// Doubt is set when an attempt that got no answer, or one of a proxy, may
	// have been carried out all the same: what the last answer refuses may be
	// what an earlier attempt did.
	Doubt bool
}

type callKey struct{}

// WithCall puts into the context what the requests made with it are for. They
// must be made one after the other.
func WithCall(ctx context.Context, c *Call) context.Context {
	return context.WithValue(ctx, callKey{}, c)
}

func callOf(ctx context.Context) *Call {
	c, ok := ctx.Value(callKey{}).(*Call)
	if !ok {
		return &Call{Service: "other", Name: "other"}
	}
	return c
}

// Options tune a Transport. The zero value of a field takes its default.
type Options struct {
	Base     http.RoundTripper // what sends a single attempt; required
	Log      *slog.Logger      // nil: slog.Default
	Metrics  *Metrics          // nil: none
	Attempts int               // at most so many; default 6
	Timeout  time.Duration     // of one attempt with its body; default 90 s
	Backoff  time.Duration     // before the first retry, then doubled; default 200 ms
	MaxWait  time.Duration     // no pause is longer; a server that asks for more is not waited for; default 30 s
}

// Transport is an http.RoundTripper; see the package.
type Transport struct{ o Options }

// New makes a Transport.
func New(o Options) *Transport {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	orInt := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	orDuration := func(v *time.Duration, d time.Duration) {
		if *v <= 0 {
			*v = d
		}
	}
	orInt(&o.Attempts, 6)
	orDuration(&o.Timeout, 90*time.Second)
	orDuration(&o.Backoff, 200*time.Millisecond)
	orDuration(&o.MaxWait, 30*time.Second)
	return &Transport{o}
}

// RoundTrip sends the request, again if need be, and returns the last answer
// with its whole body in memory: an answer that breaks off is a failure of the
// attempt, not of the reader.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		defer func() { _ = req.Body.Close() }() // as http.RoundTripper demands; the attempts read copies
	}
	ctx := req.Context()
	call := callOf(ctx)
	for attempt := 1; ; attempt++ {
		resp, err := t.attempt(req, call, attempt)
		call.Doubt = call.Doubt || err != nil && !neverSent(err) || err == nil && resp.StatusCode >= http.StatusInternalServerError
		if attempt >= cmp.Or(call.Attempts, t.o.Attempts) || ctx.Err() != nil || !repeat(req.Method, call, resp, err) {
			return resp, err
		}
		wait := t.pause(resp, attempt)
		if wait > t.o.MaxWait || !fits(ctx, wait) {
			return resp, err
		}
		t.o.Metrics.retried(call)
		if operation.Sleep(ctx, wait) != nil {
			return resp, err
		}
	}
}

// fits tells whether the context lasts longer than a pause.
func fits(ctx context.Context, wait time.Duration) bool {
	deadline, limited := ctx.Deadline()
	return !limited || time.Until(deadline) > wait
}

// attempt sends the request once.
func (t *Transport) attempt(req *http.Request, call *Call, number int) (*http.Response, error) {
	limit := cmp.Or(call.Timeout, t.o.Timeout)
	ctx, cancel := context.WithTimeoutCause(req.Context(), limit, slowError(limit))
	defer cancel()
	one := req.Clone(ctx)
	if req.GetBody != nil {
		body, err := req.GetBody()
		if err != nil {
			return nil, fmt.Errorf("preparing the request: %w", err)
		}
		one.Body = body
	}
	done := t.o.Metrics.started(call)
	start := time.Now()
	resp, err := t.o.Base.RoundTrip(one)
	if err == nil {
		err = buffer(resp)
	}
	if err != nil {
		resp = nil
		if cause := context.Cause(ctx); cause != nil && req.Context().Err() == nil {
			err = fmt.Errorf("%w: %w", cause, err)
		}
	}
	took := time.Since(start)
	done(result(req.Context(), resp, err), took)
	t.log(req, call, resp, err, number, took)
	return resp, err
}

func (t *Transport) log(req *http.Request, call *Call, resp *http.Response, err error, number int, took time.Duration) {
	attrs := []slog.Attr{
		slog.String("service", call.Service), slog.String("call", call.Name),
		slog.String("method", req.Method), slog.String("path", req.URL.Path),
		slog.Int("attempt", number), slog.Duration("took", took),
	}
	if err != nil {
		attrs = append(attrs, slog.Any("error", err))
	} else {
		attrs = append(attrs, slog.Int("status", resp.StatusCode), slog.String("openstack_request_id", RequestID(resp.Header)))
	}
	t.o.Log.LogAttrs(req.Context(), slog.LevelDebug, "OpenStack call", attrs...)
}

// slowError is the cause of an attempt that took too long.
type slowError time.Duration

func (e slowError) Error() string {
	return fmt.Sprintf("no complete answer within %s", time.Duration(e))
}

// maxBody is far above a page of 1000 volumes with all their metadata.
const maxBody = 64 << 20

// buffer reads the whole body and puts it back.
func buffer(resp *http.Response) error {
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	errClose := resp.Body.Close()
	switch {
	case err != nil:
		return fmt.Errorf("the answer broke off: %w", err)
	case errClose != nil:
		return fmt.Errorf("the answer broke off: %w", errClose)
	case len(data) > maxBody:
		return fmt.Errorf("the answer is longer than %d bytes", maxBody)
	}
	resp.Body = io.NopCloser(bytes.NewReader(data))
	return nil
}

// RequestID returns the id that OpenStack gave to a request.
func RequestID(h http.Header) string {
	if id := h.Get("X-Openstack-Request-Id"); id != "" {
		return id
	}
	return h.Get("X-Compute-Request-Id")
}
