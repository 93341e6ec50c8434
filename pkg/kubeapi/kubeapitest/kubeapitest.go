// Package kubeapitest is a Kubernetes API server in memory for tests. It has Nodes and
// VolumeAttachments.
package kubeapitest

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/kubeapi"
)

// Server has Nodes, which it returns and merges patches into as Kubernetes does: a patch with
// another uid or resourceVersion than the Node's is a conflict.
type Server struct {
	api kubeapi.API

	mu          sync.Mutex
	nodes       map[string]*Node
	attachments map[string]*attachment // by name
	everything  *attachment            // nil, or what attachments lacks
	calls       []string
	// Before, unless nil, sees every request first and may answer it. Set it before the first
	// request; it is called with the lock held, so it may change nodes but not call methods.
	Before func(w http.ResponseWriter, r *http.Request) (answered bool)
}

// Node is the state of a Node.
type Node struct {
	UID         string
	Version     int
	Labels      map[string]string
	Annotations map[string]string
	Taints      []string // keys
	IsReady     bool
}

// New starts a server on 127.0.0.1, which ends with the test.
func New(tb testing.TB) *Server {
	tb.Helper()
	return Listen(tb, "127.0.0.1")
}

// Listen is New for another address of this machine.
func Listen(tb testing.TB, ip string) *Server {
	tb.Helper()
	s := &Server{nodes: make(map[string]*Node), attachments: make(map[string]*attachment)}
	s.api = Serve(tb, ip, s)
	return s
}

// Serve serves another handler than Server on an address of this machine until the end of the test.
// It returns the address with the credentials, whose token is "good".
func Serve(tb testing.TB, ip string, handler http.Handler) kubeapi.API {
	tb.Helper()
	listener, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", net.JoinHostPort(ip, "0"))
	if err != nil {
		tb.Fatal(err)
	}
	server := httptest.NewUnstartedServer(handler)
	_ = server.Listener.Close() // that of the default address
	server.Listener = listener
	certificate := newCertificate(tb, ip)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}
	server.StartTLS()
	tb.Cleanup(server.Close)
	dir := tb.TempDir()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Certificate[0]})
	for name, content := range map[string]string{"ca.crt": string(ca), "token": "good"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	return kubeapi.API{URL: server.URL, Dir: dir}
}

// newCertificate returns a certificate for an address, which is its own authority.
func newCertificate(tb testing.TB, ip string) tls.Certificate {
	tb.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour), IPAddresses: []net.IP{net.ParseIP(ip)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		tb.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: private}
}

// API returns the address and the credentials.
func (s *Server) API() kubeapi.API { return s.api }

// AddNode adds a Node that is ready, or replaces the one of that name by another.
func (s *Server) AddNode(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nodes[name] = &Node{
		UID: "uid-" + strconv.Itoa(len(s.calls)) + "-" + name, Version: 1, IsReady: true,
		Labels: make(map[string]string), Annotations: make(map[string]string),
	}
}

// RemoveNode deletes a Node.
func (s *Server) RemoveNode(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.nodes, name)
}

// Change changes a Node, as other clients of the API server do.
func (s *Server) Change(name string, change func(*Node)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s.nodes[name])
	s.nodes[name].Version++
}

// ChangeLocked is Change for use in Before.
func (s *Server) ChangeLocked(name string, change func(*Node)) {
	change(s.nodes[name])
	s.nodes[name].Version++
}

// Annotation returns an annotation of a Node; empty: it has none.
func (s *Server) Annotation(name, key string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.nodes[name].Annotations[key]
}

// Calls returns how many requests of that method were made.
func (s *Server) Calls(method string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, call := range s.calls {
		if call == method {
			n++
		}
	}
	return n
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, r.Method)
	name := strings.TrimPrefix(r.URL.Path, kubeapi.NodesPath)
	n := s.nodes[name]
	switch {
	case s.Before != nil && s.Before(w, r):
	case r.Header.Get("Authorization") != "Bearer good":
		Refuse(w, http.StatusUnauthorized, "Unauthorized")
	case strings.HasPrefix(r.URL.Path, kubeapi.VolumeAttachmentsPath):
		s.serveAttachment(w, r)
	case n == nil:
		Refuse(w, http.StatusNotFound, `nodes "`+name+`" not found`)
	case r.Method == http.MethodGet:
		Answer(w, n.object(name))
	case r.Method == http.MethodPatch && r.Header.Get("Content-Type") == kubeapi.MergePatch:
		n.merge(w, r, name)
	default:
		Refuse(w, http.StatusMethodNotAllowed, r.Method+" is not implemented")
	}
}

func (n *Node) merge(w http.ResponseWriter, r *http.Request, name string) {
	var patch struct {
		Metadata struct {
			UID, ResourceVersion string
			Annotations          map[string]*string
		}
	}
	if err := json.NewDecoder(r.Body).Decode(&patch); err != nil {
		Refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	m := patch.Metadata
	if m.UID != "" && m.UID != n.UID || m.ResourceVersion != "" && m.ResourceVersion != strconv.Itoa(n.Version) {
		Refuse(w, http.StatusConflict, "the object has been modified")
		return
	}
	before := maps.Clone(n.Annotations)
	for key, value := range m.Annotations {
		if value == nil {
			delete(n.Annotations, key)
		} else {
			n.Annotations[key] = *value
		}
	}
	if !maps.Equal(before, n.Annotations) {
		n.Version++
	}
	Answer(w, n.object(name))
}

func (n *Node) object(name string) map[string]any {
	taints := []map[string]string{}
	for _, key := range n.Taints {
		taints = append(taints, map[string]string{"key": key, "effect": "NoExecute"})
	}
	ready := "Unknown"
	if n.IsReady {
		ready = "True"
	}
	return map[string]any{
		"metadata": map[string]any{
			"name": name, "uid": n.UID, "resourceVersion": strconv.Itoa(n.Version),
			"labels": n.Labels, "annotations": n.Annotations,
		},
		"spec":   map[string]any{"taints": taints},
		"status": map[string]any{"conditions": []map[string]string{{"type": "Ready", "status": ready}}},
	}
}

// Answer answers with an object.
func Answer(w http.ResponseWriter, object any) {
	_ = json.NewEncoder(w).Encode(object) // the client notices
}

// Refuse answers with an error of Kubernetes.
func Refuse(w http.ResponseWriter, code int, message string) {
	w.WriteHeader(code)
	Answer(w, map[string]string{"kind": "Status", "message": message})
}
