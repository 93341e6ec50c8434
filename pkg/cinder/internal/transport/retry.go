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

// shouldRetry reports whether to send a request again after resp or err.
//
// No request is sent again if the certificate of the server is not trusted. A GET or HEAD, and a
// call marked Repeatable, is sent again after any other attempt without an answer, and after 408,
// 429, 500, 502, 503, 504, and 413 with a Retry-After above 0, which is Cinder's rate limit. So is
// a DELETE, except after 500. Any other request is sent again only if it was certainly not carried
// out: no connection was made, or the server refused before it did anything (429; 413 as above; 503
// with Retry-After, which is a server in maintenance). A server that answers 408, 502, 504, or 503
// without Retry-After might have done the work.
func shouldRetry(method string, call *Call, resp *http.Response, err error) bool {
	isRead := method == http.MethodGet || method == http.MethodHead
	isRepeatable := isRead || method == http.MethodDelete || call.Repeatable
	if err != nil {
		var untrusted *tls.CertificateVerificationError
		if errors.As(err, &untrusted) {
			return false // no repetition makes a certificate valid
		}
		return isRepeatable || wasNeverSent(err)
	}
	wait, hasRetryAfter := RetryAfter(resp.Header, time.Now())
	switch resp.StatusCode {
	case http.StatusTooManyRequests:
		return true
	case http.StatusRequestEntityTooLarge:
		return wait > 0 // Cinder's answer to an exhausted quota is a 413 with 0
	case http.StatusServiceUnavailable:
		return isRepeatable || hasRetryAfter
	case http.StatusBadGateway, http.StatusGatewayTimeout, http.StatusRequestTimeout:
		return isRepeatable
	case http.StatusInternalServerError:
		return isRead || call.Repeatable
	}
	return false
}

// wasNeverSent reports whether an attempt failed before its request was sent.
func wasNeverSent(err error) bool {
	var proxyErr *ProxyError
	return IsDialError(err) || errors.As(err, &proxyErr)
}

// retryPause returns the time before the next attempt: an exponential backoff of at most maxPause,
// or, if the server asks for a time above 0, that time, to which maxPause does not apply. Both have
// a random part, so that clients that failed together do not retry together. attempt is small
// enough (see maxAttempts) that the shift does not overflow.
func (t *Transport) retryPause(resp *http.Response, attempt int) time.Duration {
	backoff := min(t.options.Backoff<<(attempt-1), maxPause)
	jittered := backoff/2 + rand.N(backoff/2+1)
	if resp != nil {
		if asked, _ := RetryAfter(resp.Header, time.Now()); asked > 0 {
			return asked + jittered/8
		}
	}
	return jittered
}

// RetryAfter reads the header Retry-After (RFC 9110, section 10.2.3), which holds seconds or a
// date. It reports false if there is no such header, or if its value is neither.
func RetryAfter(h http.Header, now time.Time) (wait time.Duration, ok bool) {
	text := strings.TrimSpace(h.Get("Retry-After"))
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second, true
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(at.Sub(now), 0), true
	}
	return 0, false
}
