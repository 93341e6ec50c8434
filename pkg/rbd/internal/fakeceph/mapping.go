package fakeceph

import (
	"maps"
	"slices"
)

// This file holds what nodes do with images: map them and write.

// MapOptions say how a node maps an image.
type MapOptions struct {
	ReadOnly  bool // no watch, no lock
	Exclusive bool // krbd's option exclusive
}

// Mapping is an image that a node has mapped with krbd.
type Mapping struct {
	Address string // of the client, ip:port/nonce, as in Watcher.Address
	client  *client
	image   *image
	watch   *watch
}

// Map maps an image on a node that maps nothing else. It panics if there is no such image.
func (s *Server) Map(poolName, namespaceName, imageName string, options MapOptions) *Mapping {
	s.mu.Lock()
	defer s.mu.Unlock()
	im := s.pools[poolName].namespaces[namespaceName].images[imageName]
	c := s.newClient()
	c.isNode = true
	m := &Mapping{Address: c.address, client: c, image: im}
	if options.ReadOnly {
		return m
	}
	m.watch = im.addWatch(c)
	if im.hasFeature("exclusive-lock") {
		im.lock = &lock{client: c, isMappedExclusive: options.Exclusive}
	}
	return m
}

// Size returns the size of the image in bytes.
func (m *Mapping) Size() uint64 {
	m.client.server.mu.Lock()
	defer m.client.server.mu.Unlock()
	return m.image.size
}

// Unmap ends the mapping.
func (m *Mapping) Unmap() {
	m.Lose()
	m.client.server.mu.Lock()
	defer m.client.server.mu.Unlock()
	if m.image.lock != nil && m.image.lock.client == m.client {
		m.image.lock = nil
	}
}

// Lose ends the watch, as a node does that has been dead for 30 s. It keeps the lock.
func (m *Mapping) Lose() {
	m.client.server.mu.Lock()
	defer m.client.server.mu.Unlock()
	m.image.watches = slices.DeleteFunc(m.image.watches, func(w *watch) bool { return w == m.watch })
}

// IsFenced reports whether the client of the mapping was fenced.
func (m *Mapping) IsFenced() bool {
	m.client.server.mu.Lock()
	defer m.client.server.mu.Unlock()
	return m.client.isFenced
}

// Write writes a number to the blocks of 64 KiB from that one on; zero discards them. Tests
// compare the numbers, not bytes.
func (s *Server) Write(poolName, namespaceName, imageName string, block, blocks, number uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	im := s.pools[poolName].namespaces[namespaceName].images[imageName]
	for i := block; i < block+blocks; i++ {
		im.blocks[i] = number
	}
}

// Content returns the number of every block of an image that does not read as zeros.
func (s *Server) Content(poolName, namespaceName, imageName string) map[uint64]uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.pools[poolName].namespaces[namespaceName].images[imageName].content())
}
