// Package kubeapi is a small client of the Kubernetes API server, for programs that read and change
// a few objects and need none of client-go's caches: each call is one request. Begin with
// InCluster and API.Open.
package kubeapi

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	// serviceAccountDir is the directory of a pod's token, as in Kubernetes' own clients.
	serviceAccountDir = "/var/run/secrets/kubernetes.io/serviceaccount"
	// requestTimeout bounds one request, and maxAnswer its answer in bytes; a Node with
	// hundreds of images has about 100 KiB.
	requestTimeout = 10 * time.Second
	maxAnswer      = 16 << 20
)

// API is the address of a Kubernetes API server and the directory of the credentials for it.
type API struct {
	URL string // https://host:port
	Dir string // contains `token` and `ca.crt`, which change; Open reads them again
}

// InCluster returns the API server that the environment of a pod names, with the credentials
// of the pod's service account. It fails outside of a pod.
func InCluster() (API, error) {
	host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return API{}, errors.New(
			"KUBERNETES_SERVICE_HOST or KUBERNETES_SERVICE_PORT is not set: this process does not run in a Kubernetes pod")
	}
	return API{URL: "https://" + net.JoinHostPort(host, port), Dir: serviceAccountDir}, nil
}

// Connection is an API with the credentials as they were when the connection was opened.
type Connection struct {
	url, token string
	client     *http.Client
}

// Error is an answer of the API server other than success.
type Error struct {
	Code int // HTTP status, such as 404
	Msg  string
}

// Error implements error.
func (e *Error) Error() string { return e.Msg }

// IsNotFound reports whether the API server answered that the object does not exist.
func IsNotFound(err error) bool { return hasCode(err, http.StatusNotFound) }

// IsDenied reports whether the API server refused the token, or its permissions.
func IsDenied(err error) bool {
	return hasCode(err, http.StatusForbidden) || hasCode(err, http.StatusUnauthorized)
}

func hasCode(err error, code int) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Code == code
}

// Open reads the credentials. The caller closes the connection.
func (a API) Open() (Connection, error) {
	token, err := os.ReadFile(filepath.Join(a.Dir, "token"))
	if err != nil {
		return Connection{}, fmt.Errorf("cannot read the service account's token: %w", err)
	}
	return a.OpenWith(strings.TrimSpace(string(token)))
}

// OpenWith is Open with another token than that of Dir, which need not contain one.
func (a API) OpenWith(token string) (Connection, error) {
	ca, err := os.ReadFile(filepath.Join(a.Dir, "ca.crt"))
	if err != nil {
		return Connection{}, fmt.Errorf("cannot read the API server's certificate authority: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return Connection{}, fmt.Errorf("%s contains no certificate", filepath.Join(a.Dir, "ca.crt"))
	}
	// Without a proxy: that of the environment is for addresses outside the cluster.
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}
	client := &http.Client{
		Transport: transport, Timeout: requestTimeout,
		// A redirect to plain HTTP on the same host would send the token in clear text.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return Connection{a.URL, token, client}, nil
}

// Close closes the idle connections.
func (c Connection) Close() { c.client.CloseIdleConnections() }

// Get reads the object of that name into a struct; path ends with a slash, as /api/v1/nodes/.
func (c Connection) Get(ctx context.Context, path, name string, into any) error {
	return c.do(ctx, http.MethodGet, path+url.PathEscape(name), "", nil, into)
}

// Content types of patches.
const (
	JSONPatch  = "application/json-patch+json"  // RFC 6902
	MergePatch = "application/merge-patch+json" // RFC 7386
)

// Patch sends a patch of that content type and reads the patched object.
func (c Connection) Patch(ctx context.Context, path, name, contentType string, patch, into any) error {
	body, err := json.Marshal(patch)
	if err != nil {
		return fmt.Errorf("cannot encode the patch of %s%s: %w", path, name, err)
	}
	return c.do(ctx, http.MethodPatch, path+url.PathEscape(name), contentType, body, into)
}

// Create sends an object to the path of its collection and reads the object that the API server
// has made of it.
func (c Connection) Create(ctx context.Context, path string, object, into any) error {
	body, err := json.Marshal(object)
	if err != nil {
		return fmt.Errorf("cannot encode the object for %s: %w", path, err)
	}
	return c.do(ctx, http.MethodPost, path, "application/json", body, into)
}

func (c Connection) do(ctx context.Context, method, path, contentType string, body []byte, into any) error {
	request, err := http.NewRequestWithContext(ctx, method, c.url+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	request.Header.Set("Authorization", "Bearer "+c.token)
	request.Header.Set("Accept", "application/json")
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	response, err := c.client.Do(request)
	if err != nil {
		return err // the error names method and URL
	}
	defer func() { _ = response.Body.Close() }() // only read from
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	switch {
	case err != nil:
		return fmt.Errorf("%s %s: cannot read the answer: %w", method, path, err)
	case response.StatusCode != http.StatusOK && response.StatusCode != http.StatusCreated:
		return &Error{
			Code: response.StatusCode, Msg: fmt.Sprintf("%s %s: %s", method, path, refusal(response.Status, answer)),
		}
	}
	if err := json.Unmarshal(answer, into); err != nil {
		return fmt.Errorf("%s %s: cannot decode the answer: %w", method, path, err)
	}
	return nil
}

// refusal returns the HTTP status, with the message of Kubernetes if there is one.
func refusal(status string, answer []byte) string {
	var reason struct {
		Message string `json:"message"`
	}
	if err := json.Unmarshal(answer, &reason); err != nil || reason.Message == "" {
		return status
	}
	return status + ": " + reason.Message
}
