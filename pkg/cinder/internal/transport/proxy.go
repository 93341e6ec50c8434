package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
)

// ProxyError is the answer of a proxy that refuses to connect to the server. A proxy that cannot
// reach the server usually answers with a 5xx.
type ProxyError struct {
	Proxy  string // host and port, without credentials
	Status int
}

// Error implements error.
func (e *ProxyError) Error() string {
	return fmt.Sprintf("the proxy %s did not connect to the server: it answered %d %s", e.Proxy, e.Status,
		http.StatusText(e.Status))
}

// checkProxyAnswer returns a *ProxyError, which has the status, if a proxy refuses CONNECT; the
// error of net/http has only a text.
func checkProxyAnswer(_ context.Context, proxy *url.URL, _ *http.Request, answer *http.Response) error {
	if answer.StatusCode == http.StatusOK {
		return nil
	}
	return &ProxyError{Proxy: proxy.Host, Status: answer.StatusCode}
}

// IsDialError reports whether err says that no connection to the server, or to a proxy, could be
// made.
func IsDialError(err error) bool {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "proxyconnect" { // wraps the error of the connection to the proxy
		_ = errors.As(op.Err, &op)
	}
	return op != nil && op.Op == "dial"
}
