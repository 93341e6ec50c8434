package transport

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

// TLS says how a cloud is trusted and what this side shows. The fields are PEM
// texts, not file names; empty: the system's authorities, no certificate.
type TLS struct {
	CA, Cert, Key string
	Insecure      bool // do not verify the cloud's certificate
}

// Pool makes the connections to one cloud. It keeps as many idle as the
// sidecars have workers at a time (100 of external-provisioner and 10 each of
// the others), since the default of two makes a new connection, with a new TLS
// handshake, for nearly every call of a busy cluster.
func Pool(t TLS) (*http.Transport, error) {
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
	dialer := net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           dialer.DialContext,
		TLSClientConfig:       config,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: 75 * time.Second, // an API behind a proxy gives up after 60 s as a rule
		IdleConnTimeout:       90 * time.Second,
		MaxIdleConns:          384, // three services
		MaxIdleConnsPerHost:   128,
		ForceAttemptHTTP2:     true,
	}, nil
}
