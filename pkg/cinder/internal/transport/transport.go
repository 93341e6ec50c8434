package transport

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/growvol/growvol/pkg/operation"
)

// Call describes the API call that the requests of a context belong to; see WithCall.
type Call struct {
	Service string // label of the metrics
	Name    string // label of the metrics: one of a fixed set
	// Repeatable allows a request that changes something to be repeated when its answer is lost.
	Repeatable  bool
	MaxAttempts int           // 0 means maxAttempts
	Timeout     time.Duration // of one attempt; 0 means Options.Timeout

	// MayBeDone is set by RoundTrip after an attempt that was sent and got no answer or a 5xx: it
	// might have been carried out, and then the answer to a later attempt can be a refusal.
	MayBeDone bool
}

type callKey struct{}

// WithCall returns a context whose requests belong to c. They must not be made at the same time.
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
	Base    http.RoundTripper // sends a single attempt; required
	Log     *slog.Logger      // nil: slog.Default
	Metrics *Metrics          // nil: none
	Timeout time.Duration     // of one attempt with its body; default 90 s
	Backoff time.Duration     // before the first retry, then doubled; default 200 ms
}

const (
	maxAttempts = 6
	// maxPause is the longest time between two attempts. There is no further attempt if the server
	// asks for a longer pause.
	maxPause = 30 * time.Second
)

// Transport is an http.RoundTripper that repeats requests where that is safe; see shouldRetry.
type Transport struct{ options Options }

// New returns a Transport that sends over o.Base.
func New(o Options) *Transport {
	o.Log = cmp.Or(o.Log, slog.Default())
	o.Timeout = cmp.Or(o.Timeout, 90*time.Second)
	o.Backoff = cmp.Or(o.Backoff, 200*time.Millisecond)
	return &Transport{o}
}

// RoundTrip sends the request, repeats it if shouldRetry allows that, and returns the last answer
// with its whole body in memory: so an answer that breaks off is a failed attempt, and no error for
// the reader of the body.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		defer func() { _ = req.Body.Close() }() // as http.RoundTripper requires; the attempts read copies
	}
	ctx := req.Context()
	call := callOf(ctx)
	for attempt := 1; ; attempt++ {
		resp, err := t.attempt(req, call, attempt)
		if err != nil && !wasNeverSent(err) || err == nil && resp.StatusCode >= http.StatusInternalServerError {
			call.MayBeDone = true
		}
		isLast := attempt >= cmp.Or(call.MaxAttempts, maxAttempts)
		if isLast || ctx.Err() != nil || !shouldRetry(req.Method, call, resp, err) {
			return resp, err
		}
		pause := t.retryPause(resp, attempt)
		if deadline, ok := ctx.Deadline(); pause > maxPause || ok && time.Until(deadline) <= pause {
			return resp, err
		}
		t.options.Metrics.countRetry(call)
		if operation.Sleep(ctx, pause) != nil {
			return resp, err
		}
	}
}

// attempt sends the request once.
func (t *Transport) attempt(req *http.Request, call *Call, number int) (*http.Response, error) {
	timeout := cmp.Or(call.Timeout, t.options.Timeout)
	ctx, cancel := context.WithTimeoutCause(req.Context(), timeout,
		fmt.Errorf("no complete answer within %s", timeout))
	defer cancel()
	copied := req.Clone(ctx)
	if req.GetBody != nil {
		body, err := req.GetBody()
		if err != nil {
			return nil, fmt.Errorf("preparing the request: %w", err)
		}
		copied.Body = body
	}
	done := t.options.Metrics.startAttempt(call)
	start := time.Now()
	resp, err := t.options.Base.RoundTrip(copied)
	if err == nil {
		err = readBody(resp)
	}
	if err != nil {
		resp = nil
		if cause := context.Cause(ctx); cause != nil && req.Context().Err() == nil {
			err = fmt.Errorf("%w: %w", cause, err)
		}
	}
	took := time.Since(start)
	done(resultClass(req.Context(), resp, err), took)
	t.log(req, call, resp, err, number, took)
	return resp, err
}

func (t *Transport) log(
	req *http.Request, call *Call, resp *http.Response, err error, number int, took time.Duration,
) {
	attrs := []slog.Attr{
		slog.String("service", call.Service), slog.String("call", call.Name),
		slog.String("method", req.Method), slog.String("path", req.URL.Path),
		slog.Int("attempt", number), slog.Duration("took", took),
	}
	if err != nil {
		attrs = append(attrs, slog.Any("error", err))
	} else {
		attrs = append(attrs,
			slog.Int("status", resp.StatusCode), slog.String("openstack_request_id", RequestID(resp.Header)))
	}
	t.options.Log.LogAttrs(req.Context(), slog.LevelDebug, "OpenStack call", attrs...)
}

// maxBody is the largest answer, in bytes: far above a page of 1000 volumes with all their
// metadata.
const maxBody = 64 << 20

// readBody reads the whole body of resp and puts it back.
func readBody(resp *http.Response) error {
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return fmt.Errorf("the answer broke off: %w", err)
	}
	if len(data) > maxBody {
		return fmt.Errorf("the answer is longer than %d bytes", maxBody)
	}
	resp.Body = io.NopCloser(bytes.NewReader(data))
	return nil
}

// RequestID returns the id that OpenStack gave to a request, or "" if there is none.
func RequestID(h http.Header) string {
	return cmp.Or(h.Get("X-Openstack-Request-Id"), h.Get("X-Compute-Request-Id"))
}
