package transport

import (
	"crypto/tls"
	"errors"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// repeat decides whether a request is sent again after resp or err.
//
// Requests that change nothing when they come twice (GET, HEAD, DELETE, and
// calls marked repeatable) are repeated whenever that can help. Any other POST
// only when it was certainly not processed: no connection was made, or the
// server turned it away before looking (429; 413 with Retry-After, which is
// Cinder's rate limit; 503 with Retry-After, which is a server in maintenance).
// A 502, 504 or a 503 without Retry-After may hide a server that did the work.
func repeat(method string, call *Call, resp *http.Response, err error) bool {
	reads := method == http.MethodGet || method == http.MethodHead
	safe := reads || method == http.MethodDelete || call.Repeatable
	if err != nil {
		var untrusted *tls.CertificateVerificationError
		if errors.As(err, &untrusted) {
			return false // no repetition makes a certificate valid
		}
		return safe || neverSent(err)
	}
	_, told := RetryAfter(resp.Header, time.Now())
	switch resp.StatusCode {
	case http.StatusTooManyRequests:
		return true
	case http.StatusRequestEntityTooLarge:
		// Cinder's answer to an exhausted quota is a 413 that says 0.
		wait, _ := RetryAfter(resp.Header, time.Now())
		return wait > 0
	case http.StatusServiceUnavailable:
		return safe || told
	case http.StatusBadGateway, http.StatusGatewayTimeout, http.StatusRequestTimeout:
		return safe
	case http.StatusInternalServerError:
		return reads || call.Repeatable
	}
	return false
}

// neverSent tells whether an attempt failed before its request left.
func neverSent(err error) bool {
	var refused *ProxyError
	return DialError(err) != nil || errors.As(err, &refused)
}

// pause is the time before the next attempt: what the server asks for, or
// exponential with jitter, so that clients that failed together do not come
// back together.
func (t *Transport) pause(resp *http.Response, attempt int) time.Duration {
	backoff := min(t.o.Backoff<<(attempt-1), t.o.MaxWait)
	jittered := backoff/2 + rand.N(backoff/2+1)
	if resp != nil {
		if asked, told := RetryAfter(resp.Header, time.Now()); told && asked > 0 {
			return asked + jittered/8
		}
	}
	return jittered
}

// RetryAfter reads the header of that name (RFC 9110, section 10.2.3): seconds
// or a date. told is false without a header that makes sense.
func RetryAfter(h http.Header, now time.Time) (wait time.Duration, told bool) {
	text := strings.TrimSpace(h.Get("Retry-After"))
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second, true
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(at.Sub(now), 0), true
	}
	return 0, false
}
