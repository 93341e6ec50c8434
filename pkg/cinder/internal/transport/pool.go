package transport

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// TLS holds the trusted authorities of a cloud and the client certificate, as PEM texts, not file
// names. An empty CA means the system's authorities, an empty Cert and Key no client certificate.
type TLS struct {
	CA, Cert, Key string
	Insecure      bool // do not verify the cloud's certificate
}

// Packets of a connection can be dropped silently, for example by a load balancer after a failover
// or by a firewall that has forgotten the connection. TCP gives up only after 15 minutes; these
// times let the client notice it earlier.
const (
	// An HTTP/2 connection on which nothing has arrived for pingAfter is pinged, and closed if the
	// ping is not answered within pingTimeout. All requests share one such connection.
	pingAfter   = 4 * time.Second
	pingTimeout = 4 * time.Second
	// writeTimeout closes an HTTP/2 connection to which no data can be written.
	writeTimeout = 10 * time.Second
	// ackTimeout closes a connection whose peer does not acknowledge what was sent. It matters for
	// HTTP/1.1, which has no pings.
	ackTimeout = 10 * time.Second
	// idleTimeout is shorter than the time after which load balancers forget idle connections,
	// usually 50 s or more.
	idleTimeout = 30 * time.Second
)

// NewPool returns the pool of connections to one cloud. It keeps as many idle connections as the
// sidecars have workers (100 in external-provisioner and 10 in each of the others): with the
// default of two, nearly every call of a busy cluster needs a new connection and TLS handshake.
func NewPool(t TLS) (*http.Transport, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: t.Insecure}
	if t.CA != "" {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM([]byte(t.CA)) {
			return nil, errors.New("the CA file holds no certificate in PEM form")
		}
	}
	if t.Cert != "" || t.Key != "" {
		pair, err := tls.X509KeyPair([]byte(t.Cert), []byte(t.Key))
		if err != nil {
			return nil, fmt.Errorf("client certificate and key: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	dialer := net.Dialer{
		Timeout: 10 * time.Second,
		// While a request waits for its answer, only these probes are sent.
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 5 * time.Second, Count: 3},
		Control:         setAckTimeout,
	}
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		OnProxyConnectResponse: checkProxyAnswer,
		DialContext:            dialer.DialContext,
		TLSClientConfig:        config,
		TLSHandshakeTimeout:    10 * time.Second,
		ResponseHeaderTimeout:  75 * time.Second, // a proxy in front of an API usually gives up after 60 s
		IdleConnTimeout:        idleTimeout,
		MaxIdleConns:           384, // three services
		MaxIdleConnsPerHost:    128,
		ForceAttemptHTTP2:      true,
		HTTP2: &http.HTTP2Config{
			SendPingTimeout: pingAfter, PingTimeout: pingTimeout, WriteByteTimeout: writeTimeout,
		},
	}, nil
}

// setAckTimeout sets ackTimeout on a new connection (TCP_USER_TIMEOUT). The kernel also closes an
// idle connection whose keep-alive probes are not answered for this time.
func setAckTimeout(_, _ string, conn syscall.RawConn) error {
	var errOption error
	err := conn.Control(func(fd uintptr) {
		errOption = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(ackTimeout.Milliseconds()))
	})
	return errors.Join(err, errOption)
}
