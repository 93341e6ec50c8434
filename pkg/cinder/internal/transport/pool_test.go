package transport

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// clientCertificate makes a certificate and its key in PEM form.
func clientCertificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "growvol"}, NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	must(t, err)
	keyDER, err := x509.MarshalECPrivateKey(private)
	must(t, err)
	encode := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	return encode("CERTIFICATE", der), encode("EC PRIVATE KEY", keyDER)
}

func TestPoolTrustsTheConfiguredCertificates(t *testing.T) {
	var shown string
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		shown = ""
		if len(r.TLS.PeerCertificates) > 0 {
			shown = r.TLS.PeerCertificates[0].Subject.CommonName
		}
	}))
	s.TLS = &tls.Config{ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS12}
	s.StartTLS()
	defer s.Close()
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
	cert, key := clientCertificate(t)
	get := func(o TLS) (attempts int, err error) {
		pool, err := NewPool(o)
		must(t, err)
		defer pool.CloseIdleConnections()
		counted := counter{next: pool}
		_, _, err = send(t.Context(), newTransport(t, Options{Base: &counted}), "GET", s.URL, &Call{})
		return counted.n, err
	}
	if n, err := get(TLS{}); err == nil || n != 1 || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a server nobody vouches for: %v after %d attempts", err, n)
	}
	for name, o := range map[string]TLS{
		"CA": {CA: ca}, "insecure": {Insecure: true},
		"client certificate": {CA: ca, Cert: cert, Key: key},
	} {
		if _, err := get(o); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if (shown == "growvol") != (o.Cert != "") {
			t.Errorf("%s: the server was shown %q", name, shown)
		}
	}
	for name, o := range map[string]TLS{
		"CA": {CA: "no PEM"}, "certificate": {Cert: cert},
		"key": {Cert: cert, Key: "no PEM"},
	} {
		if _, err := NewPool(o); err == nil {
			t.Errorf("a broken %s is accepted", name)
		}
	}
}

// counter counts attempts.
type counter struct {
	next http.RoundTripper
	n    int
}

func (c *counter) RoundTrip(r *http.Request) (*http.Response, error) {
	c.n++
	return c.next.RoundTrip(r)
}
