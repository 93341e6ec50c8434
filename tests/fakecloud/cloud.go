package fakecloud

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"
)

// Cloud is a running cloud: an HTTP server with the state of the three services. Its methods may be
// called from any goroutine.
type Cloud struct {
	opts   Options
	url    string // of the server, without a path
	routes []route

	done    chan struct{} // closed by Close; ends waits and work
	running sync.WaitGroup

	listenerMu sync.Mutex // guards listener and server
	listener   net.Listener
	server     *http.Server

	mu             sync.Mutex // guards everything below
	closed         bool
	random         *rand.Rand
	cinderVersions versionRange
	novaVersions   versionRange
	users          []user
	serviceID      string // of the Cinder service that has the backend
	tokens         map[string]*token
	quota          Quota
	capacity       int // GiB of the backend; 0: no limit
	types          []VolumeType
	volumes        map[string]*volume
	snapshots      map[string]*snapshot
	backups        map[string]*backup
	messages       []message
	servers        map[string]*server
	stuckWork      map[string][]func() // work that Release ends, by the ID of its object
	latencies      map[Call]Latency
	rules          []*Rule
	requests       []Request
	counts         map[Call]int
}

// Start runs a cloud until the test ends.
func Start(tb testing.TB, o Options) *Cloud {
	tb.Helper()
	c, err := New(tb.Context(), o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(c.Close)
	return c
}

// New runs a cloud on a free port of the loopback interface, or in memory if o says so. The caller
// closes the cloud.
func New(ctx context.Context, o Options) (*Cloud, error) {
	if o.InMemory {
		return Listen(ctx, newMemoryAddress(), o)
	}
	return Listen(ctx, "127.0.0.1:0", o)
}

// Listen is New on a given address, such as "127.0.0.1:8780".
func Listen(ctx context.Context, address string, o Options) (*Cloud, error) {
	o = o.withDefaults()
	c := &Cloud{
		opts:      o,
		done:      make(chan struct{}),
		random:    rand.New(rand.NewPCG(o.Seed, 0x67726f77)), //nolint:gosec // identifiers must be reproducible
		tokens:    map[string]*token{},
		quota:     *o.Quota,
		volumes:   map[string]*volume{},
		snapshots: map[string]*snapshot{},
		backups:   map[string]*backup{},
		servers:   map[string]*server{},
		stuckWork: map[string][]func(){},
		latencies: map[Call]Latency{AnyCall: {Work: Fixed(defaultWorkTime)}},
		counts:    map[Call]int{},
	}
	var err error
	if c.cinderVersions, err = parseVersionRange(o.CinderMin, o.CinderMax); err != nil {
		return nil, err
	}
	if c.novaVersions, err = parseVersionRange(o.NovaMin, o.NovaMax); err != nil {
		return nil, err
	}
	for _, t := range o.Types {
		if t.ID == "" {
			t.ID = c.newID()
		}
		c.types = append(c.types, t)
	}
	c.users, c.serviceID = c.newUsers(), c.newID()
	c.routes = slices.Concat(keystoneRoutes(), cinderRoutes(), novaRoutes())
	if err := c.listen(ctx, address); err != nil {
		return nil, err
	}
	c.url = "http://" + c.listener.Addr().String()
	return c, nil
}

func (c *Cloud) listen(ctx context.Context, address string) error {
	l, err := c.newListener(ctx, address)
	if err != nil {
		return fmt.Errorf("fake cloud: %w", err)
	}
	srv := &http.Server{Handler: c, ReadHeaderTimeout: time.Minute}
	c.listener, c.server = l, srv
	c.running.Go(func() {
		_ = srv.Serve(l)
	})
	return nil
}

func (c *Cloud) newListener(ctx context.Context, address string) (net.Listener, error) {
	if c.opts.InMemory {
		return listenInMemory(address), nil
	}
	return (&net.ListenConfig{}).Listen(ctx, "tcp", address)
}

// Close ends the server, every wait and all unfinished work. It returns when no goroutine of the
// cloud runs any more.
func (c *Cloud) Close() {
	c.mu.Lock()
	closed := c.closed
	c.closed = true
	c.mu.Unlock()
	if !closed {
		close(c.done)
	}
	c.listenerMu.Lock()
	_ = c.server.Close()
	c.listenerMu.Unlock()
	c.running.Wait()
}

// StopListening closes the listener and all connections until ResumeListening. Work that was
// started continues.
func (c *Cloud) StopListening() {
	c.listenerMu.Lock()
	defer c.listenerMu.Unlock()
	_ = c.server.Close()
}

// ResumeListening listens again on the address that the cloud had before StopListening.
func (c *Cloud) ResumeListening(ctx context.Context) error {
	c.listenerMu.Lock()
	defer c.listenerMu.Unlock()
	return c.listen(ctx, c.listener.Addr().String())
}

// URL returns the base URL of the server, "http://127.0.0.1:PORT".
func (c *Cloud) URL() string { return c.url }

// WriteCloudsYAML writes the clouds.yaml of CloudsYAML into dir and returns its path.
func (c *Cloud) WriteCloudsYAML(dir string) (string, error) {
	path := filepath.Join(dir, "clouds.yaml")
	if err := os.WriteFile(path, []byte(c.CloudsYAML()), 0o600); err != nil {
		return "", fmt.Errorf("fake cloud: %w", err)
	}
	return path, nil
}

// CloudsYAML returns a clouds.yaml with the clouds "csi" (password), "appcred" (application
// credential) and "admin".
func (c *Cloud) CloudsYAML() string {
	const password = `  %s:
    region_name: RegionOne
    identity_api_version: 3
    auth_type: password
    auth:
      auth_url: %s
      username: %s
      password: %s
      project_name: %s
      user_domain_name: Default
      project_domain_name: Default
`
	const credential = `  appcred:
    region_name: RegionOne
    identity_api_version: 3
    auth_type: v3applicationcredential
    auth:
      auth_url: %s
      application_credential_id: %s
      application_credential_secret: %s
`
	auth := c.url + identityPath + "/v3"
	id, secret := c.ApplicationCredential()
	return "clouds:\n" + fmt.Sprintf(password, "csi", auth, "csi", Password, "csi") +
		fmt.Sprintf(credential, auth, id, secret) +
		fmt.Sprintf(password, "admin", auth, "admin", Password, "admin")
}

// newID returns a random UUID (version 4). The caller holds c.mu, or the cloud does not run yet.
func (c *Cloud) newID() string {
	a, b := c.random.Uint64(), c.random.Uint64()
	return fmt.Sprintf("%08x-%04x-4%03x-%04x-%012x", a>>32, a>>16&0xffff, a&0xfff, b>>48&0x3fff|0x8000, b&0xffffffffffff)
}
