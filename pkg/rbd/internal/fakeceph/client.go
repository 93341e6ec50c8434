package fakeceph

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/cluster"
	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
)

// This file holds the connection of one client: package ceph, as a test sees it through Dialer.
var _ ceph.Cluster = (*client)(nil)

// client is a connection; the address of each is different.
type client struct {
	server   *Server
	address  string
	name     string
	cookies  uint64
	isFenced bool // for ever, as librados has it
	// isFencePending: the storage daemons may not have the map with the fence.
	isFencePending bool
	isClosed       bool
	isNode         bool // a mapping
	isSilent       bool // it answers no notification
}

func (s *Server) connect(c cluster.Cluster) (ceph.Cluster, error) {
	s.mu.Lock()
	out := s.newClient()
	wrongKey := s.key != "" && c.Key != s.key
	s.mu.Unlock()
	err := out.call("Connect", nil, func() error {
		if wrongKey {
			return unix.EACCES
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (s *Server) newClient() *client {
	s.clients++
	c := &client{
		server: s, address: fmt.Sprintf("10.77.0.%d:0/%d", 10+s.clients%200, 1_000_000+s.clients),
		name: fmt.Sprintf("client.%d", 4100+s.clients),
	}
	s.live[c.address] = c
	return c
}

func (c *client) FSID() string { return c.server.fsid }

func (c *client) Pool(name, namespaceName string) (ceph.Pool, error) {
	var out *openPool
	err := c.call("Cluster.Pool", nil, func() error {
		p := c.server.pools[name]
		if p == nil {
			return unix.ENOENT
		}
		out = &openPool{client: c, pool: p, namespace: namespaceName}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (c *client) PoolName(id int64) (string, error) {
	name := ""
	err := c.call("Cluster.PoolName", nil, func() error {
		for _, p := range c.server.pools {
			if p.id == id {
				name = p.name
				return nil
			}
		}
		return unix.ENOENT
	})
	return name, err
}

func (c *client) Pools() ([]string, error) {
	var out []string
	err := c.call("Cluster.Pools", nil, func() error {
		out = slices.Collect(maps.Keys(c.server.pools))
		return nil
	})
	return out, err
}

func (c *client) PoolUsage(name string) (ceph.PoolUsage, error) {
	var out ceph.PoolUsage
	err := c.call("Cluster.PoolUsage", nil, func() error {
		p := c.server.pools[name]
		if p == nil {
			return unix.ENOENT
		}
		out = ceph.PoolUsage{
			Stored: p.stored, MaxAvail: p.maxAvail, QuotaBytes: p.quota, IsFull: p.isFull, Flags: slices.Clone(p.flags),
		}
		return nil
	})
	return out, err
}

func (c *client) Health() error {
	return c.call("Cluster.Health", nil, func() error { return nil })
}

func (c *client) Blocklist() (map[string]time.Time, error) {
	out := make(map[string]time.Time)
	err := c.call("Cluster.Blocklist", nil, func() error {
		for address, until := range c.server.blocklist {
			if time.Now().Before(until) {
				out[address] = until
			}
		}
		return nil
	})
	return out, err
}

func (c *client) Fence(address string, duration time.Duration) error {
	return c.call("Cluster.Fence", nil, func() error {
		c.server.fence(address, time.Now().Add(duration))
		return nil
	})
}

func (c *client) Unfence(address string) error {
	return c.call("Cluster.Unfence", nil, func() error {
		delete(c.server.blocklist, address)
		return nil
	})
}

// Close ends the connection: its watches and locks go.
func (c *client) Close() {
	c.server.mu.Lock()
	defer c.server.mu.Unlock()
	c.close()
}

func (c *client) close() {
	c.isClosed = true
	delete(c.server.live, c.address)
	for _, im := range c.server.all() {
		im.watches = slices.DeleteFunc(im.watches, func(w *watch) bool { return w.client == c })
		if im.lock != nil && im.lock.client == c {
			im.lock = nil
		}
	}
}

// DropConnections ends all connections but not the mappings, as when every controller has died.
func (s *Server) DropConnections() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.live {
		if !c.isNode {
			c.close()
		}
	}
}
