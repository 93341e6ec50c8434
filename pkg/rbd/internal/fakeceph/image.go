package fakeceph

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
)

// This file holds the state of images, snapshots, watches and locks.

// blockSize is the unit in bytes in which the content of images is kept.
const blockSize = 64 << 10

// image is the state of one image.
type image struct {
	pool          *pool
	namespaceName string
	namespace     *namespace
	name, id      string
	number        int
	size          uint64
	features      []string
	objectSize    uint64
	dataPool      string
	created       time.Time
	metadata      map[string]string
	snapshots     []*snapshot
	parent        *snapshot
	overlap       uint64 // bytes that are read from the parent
	// blocks holds a number for each block that was written; zero hides the block of the
	// parent.
	blocks             map[uint64]uint64
	watches            []*watch
	lock               *lock
	group              string
	isObjectMapInvalid bool
	isGone             bool
	hasNoHeader        bool // see Server.LoseHeader
	isRemoving         bool // in the trash by Pool.Remove
}

// snapshot is the state of one snapshot.
type snapshot struct {
	image     *image
	id        uint64
	name      string
	size      uint64
	created   time.Time
	blocks    map[uint64]uint64
	isRemoved bool
	isForeign bool
	children  []*image
}

// watch is a client that has the image open for writing.
type watch struct {
	client *client
	cookie string
}

// lock is the exclusive lock.
type lock struct {
	client *client
	// isMappedExclusive: the holder does not give it up, nor does it serve requests of others
	// (krbd's option exclusive).
	isMappedExclusive bool
}

func (w *watch) watcher() ceph.Watcher {
	return ceph.Watcher{Address: w.client.address, Client: w.client.name, Cookie: w.cookie}
}

func (im *image) addWatch(c *client) *watch {
	c.cookies++
	w := &watch{client: c, cookie: fmt.Sprint(18446462598732840960 + c.cookies)}
	im.watches = append(im.watches, w)
	return w
}

func (im *image) hasFeature(name string) bool { return slices.Contains(im.features, name) }

// allFeatures returns the features with the one that clones and their parents get.
func (im *image) allFeatures() []string {
	hasChildren := slices.ContainsFunc(im.snapshots, func(s *snapshot) bool { return len(s.children) > 0 })
	if im.parent != nil || hasChildren {
		return append(slices.Clone(im.features), "operations")
	}
	return slices.Clone(im.features)
}

func (im *image) snapshotByName(name string) *snapshot {
	for _, snap := range im.snapshots {
		if snap.name == name && !snap.isRemoved && !snap.isForeign {
			return snap
		}
	}
	return nil
}

func (im *image) resize(size uint64) {
	im.size = size
	im.overlap = min(im.overlap, size)
	maps.DeleteFunc(im.blocks, func(block, _ uint64) bool { return block*blockSize >= size })
}

// content returns the number of every block that does not read as zeros.
func (im *image) content() map[uint64]uint64 { return content(im.blocks, im.parent, im.overlap) }

func (s *snapshot) content() map[uint64]uint64 { return maps.Clone(s.blocks) }

func content(blocks map[uint64]uint64, parent *snapshot, overlap uint64) map[uint64]uint64 {
	out := make(map[uint64]uint64)
	if parent != nil {
		for block, number := range parent.blocks {
			if block*blockSize < overlap {
				out[block] = number
			}
		}
	}
	maps.Copy(out, blocks)
	maps.DeleteFunc(out, func(_, number uint64) bool { return number == 0 })
	return out
}

// addSnapshot takes a snapshot. It keeps the content of the parent, too, which is what a clone of
// it reads.
func (im *image) addSnapshot(name string) {
	im.pool.snapIDs++
	snap := &snapshot{
		image: im, id: im.pool.snapIDs, name: name, size: im.size, created: time.Now(), blocks: im.content(),
	}
	im.snapshots = append(im.snapshots, snap)
}

// removeSnapshot removes a snapshot, or moves it aside while clones of it exist.
func (im *image) removeSnapshot(snap *snapshot) {
	if len(snap.children) > 0 {
		snap.isRemoved = true
		snap.name = fmt.Sprintf("00000000-0000-4000-8000-%012x", snap.id)
		return
	}
	im.snapshots = slices.DeleteFunc(im.snapshots, func(s *snapshot) bool { return s == snap })
}

// detach ends the dependence on the parent. A removed snapshot goes with its last clone, unless
// Server.KeepRemovedSnapshots.
func (im *image) detach() {
	snap := im.parent
	if snap == nil {
		return
	}
	im.parent = nil
	snap.children = slices.DeleteFunc(snap.children, func(child *image) bool { return child == im })
	if snap.isRemoved && len(snap.children) == 0 && !snap.image.pool.isKeepingSnapshots {
		snap.image.removeSnapshot(snap)
	}
}

func (im *image) imageName() ceph.ImageName {
	return ceph.ImageName{
		Pool: im.pool.name, Namespace: im.namespaceName, Image: im.name, ID: im.id,
		IsInTrash: im.namespace.trash[im.id] == im,
	}
}

// checkLock returns EROFS if another client has mapped the image with the option exclusive. A
// holder that no longer watches the image has lost the lock: connections never fence it.
func (im *image) checkLock(c *client) error {
	if im.lock == nil || im.lock.client == c {
		return nil
	}
	isWatching := slices.ContainsFunc(im.watches, func(w *watch) bool { return w.client == im.lock.client })
	switch {
	case !isWatching:
		im.lock = nil
	case im.lock.isMappedExclusive:
		return unix.EROFS
	}
	return nil
}

// takeLock makes the client the holder of the exclusive lock if nobody has it. Errors are those of
// checkLock.
func (im *image) takeLock(c *client) error {
	if err := im.checkLock(c); err != nil {
		return err
	}
	if im.lock == nil && im.hasFeature("exclusive-lock") {
		im.lock = &lock{client: c}
	}
	return nil
}
