//go:build ceph

package librbd

// #include <rados/librados.h>
import "C"

import (
	"encoding/binary"
	"errors"
	"slices"

	"github.com/ceph/go-ceph/rados"
	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/rbd/internal/header"
	"github.com/growvol/growvol/pkg/volume"
)

// This file takes snapshots and removes snapshots with clones by the object class, as librbd does
// it after it has opened the image and taken its lock, which costs 17 to 24 operations more (Ceph,
// src/librbd/operation/SnapshotCreateRequest.cc and SnapshotRemoveRequest.cc). Each is one change
// of the header, guarded by the version of the header.

// addSnapshot takes a snapshot of an image that no client has open for writing and whose lock
// nobody holds. It returns false for others, and for images with an object map or a journal: for
// these librbd stops the writes of other clients meanwhile. EEXIST; EDQUOT: the image has a limit.
//
// A client that opens the image at the same time takes the lock and writes only after it has read
// the header. It has read that with the snapshot, or is told to read it again before addSnapshot
// returns. ETIMEDOUT: such a client does not answer; the snapshot was removed again, because late
// writes could change its content.
func (i *image) addSnapshot(name string) (isDone bool, err error) {
	if i.readOnly || i.isOpen() {
		return false, nil
	}
	io, err := i.openIO()
	if err != nil {
		return false, err
	}
	defer io.Destroy()
	for range maxHeaderAttempts {
		h, isUnused, err := i.checkUnused(io)
		if err != nil || !isUnused {
			return false, err
		}
		err = i.addSnapshotTo(io, h, name)
		if err == nil {
			return true, i.announceSnapshot(io, name)
		}
		if !isOutdated(err) {
			return false, err
		}
	}
	return false, nil
}

// checkUnused returns the header with its version, and whether the image had at that version no
// lock and no client that has it open for writing.
func (i *image) checkUnused(io *rados.IOContext) (h properties, isUnused bool, err error) {
	h, err = i.pool.readHeader(io, i.id)
	if err != nil || h.features&^simpleFeatures != 0 {
		return h, false, err
	}
	if h.version, err = io.GetLastVersion(); err != nil {
		return h, false, err
	}
	locks, err := io.ListLockers(headerObject(i.id), lockName)
	if err != nil || len(locks.Clients) > 0 {
		return h, false, err
	}
	answered, silent, err := io.NotifyWithTimeout(headerObject(i.id), nil, notifyTimeout)
	if len(answered)+len(silent) > 0 {
		return h, false, nil
	}
	return h, true, err
}

// addSnapshotTo adds a snapshot to the header h. ERANGE, EOVERFLOW: it has another version.
func (i *image) addSnapshotTo(io *rados.IOContext, h properties, name string) error {
	data, err := i.openDataIO(h)
	if err != nil {
		return err
	}
	defer data.Destroy()
	id, err := takeSnapshotID(data)
	if err != nil {
		return err
	}
	in := binary.LittleEndian.AppendUint64(appendText(nil, name), id)
	err = i.changeVersion(io, h.version, "snapshot_add", in)
	definite := []error{unix.ERANGE, unix.EOVERFLOW, unix.EEXIST, unix.EDQUOT, unix.ENOENT}
	if slices.ContainsFunc(definite, func(e error) bool { return errors.Is(err, e) }) {
		// After another error the header may have the snapshot: without the id it would lose its data.
		return volume.Join(err, wrap(releaseSnapshotID(data, id), "release the snapshot id %d", id))
	}
	return err
}

// takeSnapshotID returns a new id of a snapshot in a pool.
func takeSnapshotID(data *rados.IOContext) (uint64, error) {
	var id C.uint64_t
	if r := C.rados_ioctx_selfmanaged_snap_create(C.rados_ioctx_t(data.Pointer()), &id); r < 0 {
		return 0, unix.Errno(-r)
	}
	return uint64(id), nil
}

// releaseSnapshotID removes what a pool holds of the snapshot of that id.
func releaseSnapshotID(data *rados.IOContext, id uint64) error {
	if r := C.rados_ioctx_selfmanaged_snap_remove(C.rados_ioctx_t(data.Pointer()), C.uint64_t(id)); r < 0 {
		return unix.Errno(-r)
	}
	return nil
}

// openDataIO returns an I/O context for the pool that has the data of the image, which the caller
// destroys. Ids of snapshots come from that pool, as in librbd: those of another pool can be ids of
// snapshots of other images there, or of removed ones, for which Ceph keeps no data.
func (i *image) openDataIO(h properties) (*rados.IOContext, error) {
	if h.dataPool < 0 {
		return i.openIO()
	}
	name, err := i.pool.connection.PoolName(h.dataPool)
	if err != nil {
		return nil, err
	}
	io, err := i.pool.connection.conn.OpenIOContext(name)
	return io, wrap(err, "open the data pool %s of image %s", name, i)
}

// announceSnapshot makes the clients that have opened the image meanwhile read its header. If that
// fails, it removes the snapshot.
func (i *image) announceSnapshot(io *rados.IOContext, name string) error {
	_, _, err := io.NotifyWithTimeout(headerObject(i.id), nil, notifyTimeout)
	if err == nil {
		return nil
	}
	return volume.Join(wrap(err, "notify the clients that have just opened the image"), i.RemoveSnapshot(name))
}

// retireSnapshot marks a snapshot that has clones as removed. It returns false for one without
// clones, and for images with a journal or an object map. ENOENT; EBUSY: it is protected.
func (i *image) retireSnapshot(name string) (isDone bool, err error) {
	if i.isOpen() {
		return false, nil
	}
	io, err := i.openIO()
	if err != nil {
		return false, err
	}
	defer io.Destroy()
	if err := io.SetPoolFullTry(); err != nil {
		return false, err
	}
	for range maxHeaderAttempts {
		h, err := i.pool.readHeader(io, i.id)
		if err != nil || h.features&^simpleFeatures != 0 {
			return false, err
		}
		version, err := io.GetLastVersion()
		if err != nil {
			return false, err
		}
		id, hasClones, err := i.findClonedSnapshot(name)
		if err != nil || !hasClones {
			return false, err
		}
		err = i.changeVersion(io, version, "snapshot_trash_add", binary.LittleEndian.AppendUint64(nil, id))
		if err == nil {
			return true, i.notifyWatchers(io)
		}
		if !isOutdated(err) {
			return false, err
		}
	}
	return false, nil
}

// findClonedSnapshot returns the id of a snapshot, and whether it has clones. ENOENT. It reports
// false if it cannot tell.
func (i *image) findClonedSnapshot(name string) (id uint64, hasClones bool, err error) {
	values, err := i.pool.OmapValues(headerObject(i.id))
	if err != nil {
		return 0, false, err
	}
	snapshots, err := header.Snapshots(values)
	if errors.Is(err, header.ErrFormat) {
		return 0, false, nil
	}
	found := slices.IndexFunc(snapshots, func(s ceph.Snapshot) bool {
		return s.Name == name && !s.IsRemoved && !s.IsForeign
	})
	if err != nil || found < 0 {
		return 0, false, volume.Join(unix.ENOENT, err)
	}
	id = snapshots[found].ID
	return id, header.HasClones(values, id), nil
}
