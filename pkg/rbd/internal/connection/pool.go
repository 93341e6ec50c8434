// Package connection keeps the connections to Ceph clusters: one for each cluster and user, made
// when it is first needed, shared, and replaced when it no longer works or its configuration has
// changed.
package connection

import (
	"log/slog"
	"slices"
	"sync"

	"github.com/growvol/growvol/pkg/rbd/cluster"
	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
)

// Pool keeps the connections. New makes one.
type Pool struct {
	dialer ceph.Dialer
	log    *slog.Logger

	mu       sync.Mutex
	current  map[key]*shared  // guarded by mu
	attempts map[key]*attempt // guarded by mu
	isClosed bool             // guarded by mu
}

// key identifies a connection. A user of a class's secrets has a connection of its own.
type key struct{ cluster, user string }

// New returns a pool without connections.
func New(dialer ceph.Dialer, log *slog.Logger) *Pool {
	return &Pool{dialer: dialer, log: log, current: make(map[key]*shared), attempts: make(map[key]*attempt)}
}

// shared is a connection with the configuration that it was made with. The mutex of the pool guards
// its fields.
type shared struct {
	ceph.Cluster

	config  cluster.Cluster
	users   int
	isStale bool // no longer in Pool.current: closed by its last user
}

// Connection is the use of a connection by one caller, until Release.
type Connection struct {
	ceph.Cluster

	pool   *Pool
	shared *shared
}

// Acquire returns a connection with that configuration, and makes it if there is none. If the
// configuration has changed, the new connection replaces the old one as soon as it works; the old
// one is closed when its last user has released it. Callers that need a connection of the same user
// at the same time wait for one attempt. The error is that of Dialer.Connect. Acquire cannot be
// interrupted.
func (p *Pool) Acquire(c cluster.Cluster) (*Connection, error) {
	k := key{c.ID, c.User}
	for {
		used, running, start := p.use(k, c)
		switch {
		case used != nil:
			return used, nil
		case start != nil:
			return p.connect(k, c, start)
		}
		<-running.done
		if running.err != nil && isSame(running.config, c) {
			return nil, running.err
		}
	}
}

// attempt is one call of Dialer.Connect.
type attempt struct {
	config cluster.Cluster
	done   chan struct{} // closed at its end
	err    error         // set before done is closed
}

// use returns the current connection of that key if it has the configuration. Otherwise it returns
// the attempt that is running, or one that the caller has to start.
func (p *Pool) use(k key, c cluster.Cluster) (used *Connection, running, start *attempt) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.current[k]; s != nil && isSame(s.config, c) {
		s.users++
		return &Connection{Cluster: s.Cluster, pool: p, shared: s}, nil, nil
	}
	if running = p.attempts[k]; running != nil {
		return nil, running, nil
	}
	start = &attempt{config: c, done: make(chan struct{})}
	p.attempts[k] = start
	return nil, nil, start
}

// connect makes a connection and replaces the current one of that key.
func (p *Pool) connect(k key, c cluster.Cluster, a *attempt) (*Connection, error) {
	made, err := p.dialer.Connect(c)
	s := &shared{Cluster: made, config: c, users: 1}
	p.mu.Lock()
	delete(p.attempts, k)
	old := p.current[k]
	if err == nil {
		s.isStale = p.isClosed
		p.current[k] = s
	}
	a.err = err
	p.mu.Unlock()
	close(a.done)
	if err != nil {
		return nil, err
	}
	p.retire(old)
	p.log.Info("connected to the Ceph cluster", "cluster", c.ID, "user", c.User, "fsid", made.FSID(), "again", old != nil)
	return &Connection{Cluster: made, pool: p, shared: s}, nil
}

// retire makes a connection unavailable to new callers.
func (p *Pool) retire(s *shared) {
	if s == nil {
		return
	}
	p.mu.Lock()
	if s.isStale {
		p.mu.Unlock()
		return
	}
	s.isStale = true
	k := key{s.config.ID, s.config.User}
	if p.current[k] == s {
		delete(p.current, k)
	}
	isUnused := s.users == 0
	p.mu.Unlock()
	if isUnused {
		s.Close()
	}
}

// Discard makes the pool connect again for the next caller: this connection was fenced, or does not
// work any more. The caller still has to release it.
func (c *Connection) Discard() { c.pool.retire(c.shared) }

// Release ends the use of the connection.
func (c *Connection) Release() {
	c.pool.mu.Lock()
	c.shared.users--
	isUnused := c.shared.isStale && c.shared.users == 0
	c.pool.mu.Unlock()
	if isUnused {
		c.shared.Close()
	}
}

// Close closes the connections that nobody uses, and the others when they are released.
func (p *Pool) Close() {
	p.mu.Lock()
	p.isClosed = true
	all := make([]*shared, 0, len(p.current))
	for _, s := range p.current {
		all = append(all, s)
	}
	p.mu.Unlock()
	for _, s := range all {
		p.retire(s)
	}
}

func isSame(a, b cluster.Cluster) bool {
	return a.ID == b.ID && a.User == b.User && a.Key == b.Key && slices.Equal(a.Monitors, b.Monitors)
}
