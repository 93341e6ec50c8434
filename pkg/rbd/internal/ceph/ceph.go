// Package ceph is what the backend needs of a Ceph cluster: a small interface between the decisions
// of package rbd and librados and librbd. Package librbd implements it with the libraries, package
// fakeceph in memory, with the same state changes and the same errors.
//
// No method has a context: calls of the libraries cannot be interrupted. They end by the timeouts
// of the connection, and callers run them detached (operation.RunDetached). Errors wrap the errno
// of the library, such as unix.ENOENT.
package ceph

import (
	"time"

	"github.com/growvol/growvol/pkg/rbd/cluster"
)

// Dialer connects to clusters.
type Dialer interface {
	// Connect opens a connection. It never breaks locks by fencing
	// (rbd_blocklist_on_break_lock=false), and each of its operations ends within a minute.
	Connect(c cluster.Cluster) (Cluster, error)
}

// Cluster is one connection to a cluster. A connection whose client was fenced answers every
// operation with ESHUTDOWN for ever; connect again.
type Cluster interface {
	FSID() string
	// Pool opens a pool, or a RADOS namespace of it. ENOENT: there is no such pool. A
	// missing namespace is not noticed before the first use of an image.
	Pool(name, namespace string) (Pool, error)
	// PoolName returns the name of the pool of that id. ENOENT.
	PoolName(id int64) (string, error)
	// Pools returns the names of all pools, also those that the user may not read.
	Pools() ([]string, error)
	// PoolUsage reads space, quota and flags of a pool from the monitors.
	PoolUsage(name string) (PoolUsage, error)
	// Health returns nil if the cluster answers; it costs one request to a monitor.
	Health() error

	// Blocklist returns the fenced clients with the end of their fences; Fence adds one until the
	// duration has passed, and Unfence removes one. The address is ip:port/nonce, exactly as
	// Watcher.Address. Fence does not change the end of a fence that the client has: Ceph keeps it
	// and reports success. The storage daemons learn of a change later; see Pool.AwaitMap.
	Blocklist() (map[string]time.Time, error)
	Fence(address string, duration time.Duration) error
	Unfence(address string) error

	Close()
}

// PoolUsage is the space of a pool in bytes.
type PoolUsage struct {
	Stored     uint64 // of the users' data, without replicas
	MaxAvail   uint64 // more data that fits, as the monitors estimate it
	QuotaBytes uint64 // zero: no quota
	// IsFull: writes block or fail (pool or cluster flags full, full_quota); Flags names why.
	IsFull bool
	Flags  []string
}

// ImageOptions are the properties of a new image.
type ImageOptions struct {
	Features    []string // such as "layering", "exclusive-lock"
	DataPool    string   // empty: the pool itself
	ObjectSize  uint64   // bytes, a power of two; zero: the default
	StripeUnit  uint64   // bytes; zero: the default
	StripeCount uint64
}

// Pool holds images, in one RADOS namespace.
type Pool interface {
	ID() int64
	Create(name string, size uint64, options ImageOptions) error // EEXIST
	// Clone makes an image from a snapshot, which need not be protected (clone format 2). The
	// parent lies in this pool or, by parent, in another.
	Clone(parent Pool, image, snapshot, name string, options ImageOptions) error // ENOENT, EEXIST
	// Open opens an image by name, OpenID by id. ENOENT. An image that is opened read-only adds
	// no watcher and takes no lock.
	Open(name string, readOnly bool) (Image, error)
	OpenID(id string, readOnly bool) (Image, error)
	// Rename renames an image, also while it is in use or the pool is full, in steps: the object with
	// the id under the new name, the directory, the object under the old name. ENOENT, EEXIST.
	Rename(name, newName string) error
	// Remove removes an image, also while the pool is full, in steps: it moves the image to the trash
	// and removes it from there. If the object with its id is missing, it continues a removal that was
	// interrupted, or removes the name. ENOENT; EBUSY: it has a watcher; ENOTEMPTY: it has snapshots,
	// among them those that were removed while clones of them exist, or is in a group.
	Remove(name string) error
	// RemoveFromTrash removes the image of that id from the trash. Errors are those of Remove.
	RemoveFromTrash(imageID string) error
	List() ([]string, error) // names, in no order
	// Namespaces returns the RADOS namespaces of the pool, without the default one.
	Namespaces() ([]string, error)

	// AwaitMap returns when every placement group of the pool uses the map of the cluster that the
	// monitors have now, or a later one: from then on, none serves a client that the map lists as
	// fenced. It reads once from each placement group. ETIMEDOUT: one of them, which the error
	// names, has not answered: its storage daemon is stopped, unreachable, or down without another.
	AwaitMap() error

	// ImageID returns the id of an image: one operation, without opening it. ENOENT.
	ImageID(name string) (string, error)
	// Metadata reads the metadata of the image of that id; SetMetadata and RemoveMetadata change one
	// key (`rbd image-meta`). Each is one operation, without opening the image and without its
	// lock: opening an image for writing would take the lock from the node that uses it, or wait
	// for a node that is cut off. ENOENT: there is no image of that id.
	Metadata(imageID string) (map[string]string, error)
	SetMetadata(imageID, key, value string) error
	RemoveMetadata(imageID, key string) error

	// CreateObject makes a RADOS object with the content. EEXIST. ReadObject and RemoveObject:
	// ENOENT.
	CreateObject(name string, content []byte) error
	// ForceObject is CreateObject also while the pool is full, for what a deletion needs: it makes
	// space.
	ForceObject(name string, content []byte) error
	ReadObject(name string) ([]byte, error)
	RemoveObject(name string) error
	// OmapValues returns the values of those keys that exist; no keys: of all. ENOENT.
	// RemoveOmapKeys removes keys.
	OmapValues(object string, keys ...string) (map[string]string, error)
	RemoveOmapKeys(object string, keys ...string) error
}

// AwaitMap is Pool.AwaitMap of all pools that have data of an image: pool, and the data pool if
// dataPool is not empty.
func AwaitMap(c Cluster, pool Pool, namespace, dataPool string) error {
	if err := pool.AwaitMap(); err != nil || dataPool == "" {
		return err
	}
	data, err := c.Pool(dataPool, namespace)
	if err != nil {
		return err
	}
	return data.AwaitMap()
}

// Image is an open image. Size changes that others make are visible in it.
type Image interface {
	Info() (ImageInfo, error)
	Size() (uint64, error) // bytes
	// Grow sets the size in bytes and never shrinks (EINVAL). It takes the lock only of an image with
	// an object map or a journal. EROFS: a client has mapped such an image with the option exclusive.
	Grow(size uint64) error
	Snapshots() ([]Snapshot, error)   // oldest first, also those that wait for their clones
	CreateSnapshot(name string) error // EEXIST
	// RemoveSnapshot removes a snapshot; one with clones moves aside (Snapshot.IsRemoved). ENOENT.
	// On an image that was opened read-only it works too, also while the pool is full.
	RemoveSnapshot(name string) error
	// RemoveSnapshotByID removes one that has waited for its clones, as RemoveSnapshot. EBUSY: it has
	// clones. ENOENT.
	RemoveSnapshotByID(id uint64) error
	Children() ([]ImageName, error)     // clones, of all snapshots
	Parent() (ImageName, bool, error)   // false: it is no clone
	Watchers() ([]Watcher, error)       // without the one of this image if it was opened for writing
	LockHolder() (Watcher, bool, error) // of the exclusive lock, also one that no longer answers
	// Diff calls each for every extent that differs between two snapshots, in order of the
	// offset; from "": all extents that are allocated; to "": the image itself.
	Diff(from, to string, offset, length uint64, each func(Extent) error) error
	Close() error
}

// ImageInfo are the properties of an image.
type ImageInfo struct {
	Name, ID   string
	Size       uint64 // bytes
	Features   []string
	DataPool   string // name; empty: the pool itself
	ObjectSize uint64
	Created    time.Time
	// IsObjectMapInvalid: a resize was interrupted; the kernel client may refuse the image
	// until `rbd object-map rebuild`. False if the library cannot tell.
	IsObjectMapInvalid bool
}

// ImageName names an image of the same cluster.
type ImageName struct {
	Pool, Namespace, Image, ID string
	Snapshot                   string // of a parent
	SnapshotID                 uint64
	IsInTrash                  bool
}

// Snapshot is a snapshot of an image.
type Snapshot struct {
	ID      uint64
	Name    string
	Size    uint64
	Created time.Time
	// IsRemoved: it was removed while clones of it existed, and goes with the last of them.
	IsRemoved bool
	// IsForeign: it belongs to a group or to mirroring, and is not the user's.
	IsForeign bool
}

// Watcher is a client that has an image open for writing.
type Watcher struct {
	Address string // ip:port/nonce
	Client  string // such as client.4133
	Cookie  string
}

// Extent is a range of an image in bytes.
type Extent struct {
	Offset, Length uint64
	Exists         bool // false: it reads as zeros
}
