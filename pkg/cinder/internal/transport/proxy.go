package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
)

// ProxyError is the refusal of a proxy to connect to a server for us. A proxy that cannot reach
// the server usually answers with a 5xx.
type ProxyError struct {
	Proxy  string // host and port, without credentials
	Status int
}

// Error implements error.
func (e *ProxyError) Error() string {
	return fmt.Sprintf("the proxy %s does not connect: it answered %d %s", e.Proxy, e.Status, http.StatusText(e.Status))
}

// checkProxyAnswer turns the refusal of a proxy to CONNECT into an error that has the status; the
// error of net/http has only a text.
func checkProxyAnswer(_ context.Context, proxy *url.URL, _ *http.Request, answer *http.Response) error {
	if answer.StatusCode == http.StatusOK {
		return nil
	}
	return &ProxyError{Proxy: proxy.Host, Status: answer.StatusCode}
}

// DialError returns the error of a connection that could not be made, to the server or to a proxy;
// nil: err is another error.
func DialError(err error) *net.OpError {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "proxyconnect" { // around the error of the connection to the proxy
		_ = errors.As(op.Err, &op)
	}
	if op == nil || op.Op != "dial" {
		return nil
	}
	return op
}
