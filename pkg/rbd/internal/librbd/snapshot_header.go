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
		version, isUnused, err := i.checkUnused(io)
		if err != nil || !isUnused {
			return false, err
		}
		err = i.addSnapshotTo(io, version, name)
		if err == nil {
			return true, i.announceSnapshot(io, name)
		}
		if !isOutdated(err) {
			return false, err
		}
	}
	return false, nil
}

// checkUnused returns the version of the header, and whether the image had at that version no lock
// and no client that has it open for writing.
func (i *image) checkUnused(io *rados.IOContext) (version uint64, isUnused bool, err error) {
	h, err := i.pool.readHeader(io, i.id)
	if err != nil || h.features&^simpleFeatures != 0 {
		return 0, false, err
	}
	if version, err = io.GetLastVersion(); err != nil {
		return 0, false, err
	}
	locks, err := io.ListLockers(headerObject(i.id), lockName)
	if err != nil || len(locks.Clients) > 0 {
		return 0, false, err
	}
	answered, silent, err := io.NotifyWithTimeout(headerObject(i.id), nil, notifyTimeout)
	if len(answered)+len(silent) > 0 {
		return 0, false, nil
	}
	return version, true, err
}

// addSnapshotTo adds a snapshot to a header of that version. ERANGE, EOVERFLOW: it has another.
func (i *image) addSnapshotTo(io *rados.IOContext, version uint64, name string) error {
	pool := C.rados_ioctx_t(io.Pointer())
	var id C.uint64_t
	if r := C.rados_ioctx_selfmanaged_snap_create(pool, &id); r < 0 {
		return unix.Errno(-r)
	}
	in := binary.LittleEndian.AppendUint64(appendText(nil, name), uint64(id))
	err := i.changeVersion(io, version, "snapshot_add", in)
	definite := []error{unix.ERANGE, unix.EOVERFLOW, unix.EEXIST, unix.EDQUOT, unix.ENOENT}
	if slices.ContainsFunc(definite, func(e error) bool { return errors.Is(err, e) }) {
		// After another error the header may have the snapshot: without the id it would lose its data.
		if r := C.rados_ioctx_selfmanaged_snap_remove(pool, id); r < 0 {
			return volume.Join(err, wrap(unix.Errno(-r), "release the snapshot id %d", uint64(id)))
		}
	}
	return err
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
