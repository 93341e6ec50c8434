// Package fakeceph is a Ceph cluster in memory for tests: it implements package ceph with the
// state changes and the errors of librados and librbd 16.2. Its own tests compare it with a real
// cluster.
package fakeceph

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/cluster"
	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
)

// This file holds the state of a cluster, and what an administrator can change of it.

// Dialer connects to servers by the id of their cluster. A cluster that it lacks does not answer:
// ETIMEDOUT.
type Dialer map[string]*Server

// Connect implements ceph.Dialer. A wrong key: EACCES (Server.SetKey).
func (d Dialer) Connect(c cluster.Cluster) (ceph.Cluster, error) {
	s, ok := d[c.ID]
	if !ok {
		return nil, fmt.Errorf("connect to cluster %q: %w", c.ID, unix.ETIMEDOUT)
	}
	return s.connect(c)
}

// Server is one cluster. Its methods are for tests; the driver uses it through Dialer.
type Server struct {
	fsid string

	mu        sync.Mutex
	key       string // empty: every key is accepted
	pools     map[string]*pool
	clients   int
	imageIDs  int
	blocklist map[string]time.Time
	live      map[string]*client
	isPaused  bool
	// isMapDelayed: see Server.DelayMaps.
	isMapDelayed bool
	// isFormatUnknown: snapshots and parents in the headers of images cannot be decoded.
	isFormatUnknown bool
	faults          []*Fault
	calls           map[string]int
	steps           []int // of each call
}

// New returns a cluster with empty pools. Their ids are 1, 2, ...
func New(fsid string, pools ...string) *Server {
	s := &Server{
		fsid: fsid, pools: make(map[string]*pool), blocklist: make(map[string]time.Time),
		live: make(map[string]*client), calls: make(map[string]int),
	}
	for i, name := range pools {
		s.pools[name] = &pool{
			id: int64(i + 1), name: name, maxAvail: 1 << 40, namespaces: map[string]*namespace{"": newNamespace()},
		}
	}
	return s
}

// pool is the state of one pool.
type pool struct {
	id         int64
	name       string
	maxAvail   uint64
	stored     uint64
	quota      uint64
	isFull     bool
	flags      []string
	snapIDs    uint64
	namespaces map[string]*namespace
	// isKeepingSnapshots: see Server.KeepRemovedSnapshots.
	isKeepingSnapshots bool
}

// namespace is the state of one RADOS namespace of a pool.
type namespace struct {
	ids     map[string]*image // by name: the objects rbd_id.NAME
	images  map[string]*image // by name: the object rbd_directory
	trash   map[string]*image // by id
	objects map[string]*object
}

func newNamespace() *namespace {
	return &namespace{
		ids: make(map[string]*image), images: make(map[string]*image), trash: make(map[string]*image),
		objects: make(map[string]*object),
	}
}

type object struct {
	content []byte
	omap    map[string]string
}

// SetKey makes the cluster refuse (EACCES) connections with another key.
func (s *Server) SetKey(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.key = key
}

// CreateNamespace makes a RADOS namespace (`rbd namespace create`).
func (s *Server) CreateNamespace(poolName, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pools[poolName].namespaces[name] = newNamespace()
}

// RemovePool removes a pool with all its images.
func (s *Server) RemovePool(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pools, name)
}

// SetPaused makes every call time out (`ceph osd pause`).
func (s *Server) SetPaused(isPaused bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.isPaused = isPaused
}

// SetFormatUnknown makes the headers of images those of another version of Ceph.
func (s *Server) SetFormatUnknown() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.isFormatUnknown = true
}

// SetFull makes calls that write to the pool time out, also removals: flags are those of the pool,
// such as "full_quota"; none: it is no longer full.
func (s *Server) SetFull(poolName string, flags ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pools[poolName].isFull, s.pools[poolName].flags = len(flags) > 0, flags
}

// SetFlags sets the flags of a pool that do not stop writes, such as "nearfull".
func (s *Server) SetFlags(poolName string, flags ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pools[poolName].flags = flags
}

// SetUsage sets the space of a pool in bytes. A quota of zero is none.
func (s *Server) SetUsage(poolName string, stored, maxAvail, quota uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.pools[poolName]
	p.stored, p.maxAvail, p.quota = stored, maxAvail, quota
}

// Resize sets the size of an image in bytes from outside, also to a smaller one.
func (s *Server) Resize(poolName, namespaceName, imageName string, size uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pools[poolName].namespaces[namespaceName].images[imageName].resize(size)
}

// SetObjectMapInvalid sets the flag that an interrupted resize leaves.
func (s *Server) SetObjectMapInvalid(poolName, namespaceName, imageName string, isInvalid bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pools[poolName].namespaces[namespaceName].images[imageName].isObjectMapInvalid = isInvalid
}

// LoseHeader leaves only the name of an image and its id, as a creation or a removal does that was
// interrupted.
func (s *Server) LoseHeader(poolName, namespaceName, imageName string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pools[poolName].namespaces[namespaceName].images[imageName].hasNoHeader = true
}

// KeepRemovedSnapshots makes the last clone of a removed snapshot of the pool leave the snapshot,
// as librbd does after any error of its removal, which it does not report
// (src/librbd/image/DetachChildRequest.cc).
func (s *Server) KeepRemovedSnapshots(poolName string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pools[poolName].isKeepingSnapshots = true
}

// MoveToTrash moves an image to the trash (`rbd trash move`): no longer found by name, but by id.
func (s *Server) MoveToTrash(poolName, namespaceName, imageName string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.pools[poolName].namespaces[namespaceName]
	n.trash[n.images[imageName].id] = n.images[imageName]
	delete(n.images, imageName)
	delete(n.ids, imageName)
}

// BeginMoveToTrash leaves what an interrupted `rbd trash move` leaves: the image is in the trash,
// and the directory still has its name.
func (s *Server) BeginMoveToTrash(poolName, namespaceName, imageName string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.pools[poolName].namespaces[namespaceName]
	n.trash[n.images[imageName].id] = n.images[imageName]
	delete(n.ids, imageName)
}

// SetOmap writes an object with those keys, such as the journal of ceph-csi.
func (s *Server) SetOmap(poolName, namespaceName, objectName string, values map[string]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.pools[poolName].namespaces[namespaceName]
	if n.objects[objectName] == nil {
		n.objects[objectName] = &object{omap: make(map[string]string)}
	}
	for k, v := range values {
		n.objects[objectName].omap[k] = v
	}
}

// Fence fences a client for an hour, as another client of the cluster would.
func (s *Server) Fence(address string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fence(address, time.Now().Add(time.Hour))
}

// fence does not change the end of a fence that the client has (OSDMap::apply_incremental).
func (s *Server) fence(address string, until time.Time) {
	if s.blocklist[address].Before(time.Now()) {
		s.blocklist[address] = until
	}
	if c := s.live[address]; c != nil {
		c.isFenced = c.isFenced || !s.isMapDelayed
		c.isFencePending = true
	}
}

// DelayMaps makes the storage daemons go on serving clients that are fenced from now on, until
// Pool.AwaitMap.
func (s *Server) DelayMaps() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.isMapDelayed = true
}

// Contents names every image and every RADOS object of the cluster, for tests that check that
// nothing was left: "pool/namespace/image", with "@name" for each snapshot of it ("@(removed)" for
// one that waits for its clones), "(trash)" after images in the trash, and "object" before objects.
func (s *Server) Contents() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, p := range s.pools {
		for name, n := range p.namespaces {
			out = append(out, n.contents(p.name+"/"+name+"/")...)
		}
	}
	slices.Sort(out)
	return out
}

func (n *namespace) contents(prefix string) []string {
	var out []string
	for name := range n.ids {
		if n.images[name] == nil {
			out = append(out, prefix+name+" (id only)")
		}
	}
	for _, im := range n.images {
		out = append(out, prefix+im.name)
		for _, snap := range im.snapshots {
			text := snap.name
			if snap.isRemoved {
				text = "(removed)"
			}
			out = append(out, prefix+im.name+"@"+text)
		}
	}
	for _, im := range n.trash {
		out = append(out, prefix+im.name+" (trash)")
	}
	for name := range n.objects {
		out = append(out, "object "+prefix+name)
	}
	return out
}

// all returns the images of the cluster, also those in the trash, in the order of their creation.
func (s *Server) all() []*image {
	var out []*image
	for _, p := range s.pools {
		for _, n := range p.namespaces {
			for _, im := range n.images {
				out = append(out, im)
			}
			for _, im := range n.trash {
				if n.images[im.name] != im { // its removal was interrupted
					out = append(out, im)
				}
			}
		}
	}
	slices.SortFunc(out, func(a, b *image) int { return cmp.Compare(a.number, b.number) })
	return out
}
