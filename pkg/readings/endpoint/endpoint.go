// Package endpoint serves /volumes of a plugin: it answers with readings to callers whose token may
// get the path, as the API server says. The plugin needs no token of its own for that.
//
// endpoint.go has the listener, handler.go the requests, reviewer.go the callers' rights.
package endpoint

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/net/netutil"

	"github.com/growvol/growvol/pkg/kubeapi"
	"github.com/growvol/growvol/pkg/readings"
)

// The limits of the connections of the listener. A request has no body; its longest line names
// readings.MaxIDs volumes.
const (
	maxHeaderBytes    = 32 << 10
	maxConnections    = 64
	readHeaderTimeout = 5 * time.Second
	writeTimeout      = 30 * time.Second // longer than the review and the reading together
	idleTimeout       = 10 * time.Second
	stopTimeout       = time.Second
)

// Options configure the listener; all fields are required.
type Options struct {
	Address string      // host:port
	API     kubeapi.API // reviews the tokens; its Dir needs no token
	// Answer is what every answer says of the plugin; its Volumes are those that Read returns.
	Answer readings.Answer
	// Read returns the volumes of the ids. It ends with its context. An error of kind Invalid is
	// the caller's.
	Read func(ctx context.Context, ids []string) ([]readings.Volume, error)
	Log  *slog.Logger
}

// StartInCluster is Start with the API server that the environment of the pod names. dir, unless
// empty, replaces the pod's own directory with ca.crt. With an empty address it starts nothing.
func StartInCluster(ctx context.Context, opts Options, dir string) (stop func(), err error) {
	if opts.Address == "" {
		return func() {}, nil
	}
	if opts.API, err = kubeapi.InCluster(); err != nil {
		return nil, err
	}
	if dir != "" {
		opts.API.Dir = dir
	}
	return Start(ctx, opts)
}

// Start listens on the address and serves until stop is called. stop waits for the requests that
// are running, at most a second, and cancels them then.
func Start(ctx context.Context, opts Options) (stop func(), err error) {
	certificate, err := newCertificate()
	if err != nil {
		return nil, fmt.Errorf("cannot make a certificate: %w", err)
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", opts.Address)
	if err != nil {
		return nil, fmt.Errorf("cannot listen for %s on %s: %w", readings.Path, opts.Address, err)
	}
	opts.Log.InfoContext(ctx, "serving readings", "path", readings.Path, "address", listener.Addr().String())
	ctx, cancel := context.WithCancel(ctx)
	server := newServer(ctx, opts, certificate)
	var running sync.WaitGroup
	running.Go(func() {
		err := server.ServeTLS(netutil.LimitListener(listener, maxConnections), "", "")
		if !errors.Is(err, http.ErrServerClosed) {
			opts.Log.ErrorContext(ctx, "the readings are no longer served", "cause", err)
		}
	})
	return func() {
		stopCtx, stopped := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer stopped()
		if server.Shutdown(stopCtx) != nil {
			cancel()
			_ = server.Close() // the requests end with their context
		}
		cancel()
		running.Wait()
	}, nil
}

func newServer(ctx context.Context, opts Options, certificate tls.Certificate) *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true) // HTTP/2 would allow many requests on one connection
	return &http.Server{
		Handler:           newHandler(opts),
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12},
		Protocols:         &protocols,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readHeaderTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		// Every caller can cause these errors, such as those of TLS.
		ErrorLog: slog.NewLogLogger(opts.Log.Handler(), slog.LevelDebug),
	}
}

// newCertificate returns a certificate of its own authority, which exists in memory only. The API
// server does not verify the certificates of pods; TLS keeps the tokens from passive readers.
func newCertificate() (tls.Certificate, error) {
	const lifetime = 20 * 365 * 24 * time.Hour // longer than that of a process
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "growvol"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(lifetime),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key}, err
}
