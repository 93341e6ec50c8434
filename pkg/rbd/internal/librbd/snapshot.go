//go:build ceph

package librbd

import (
	"cmp"
	"slices"
	"time"

	"github.com/ceph/go-ceph/rbd"
	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/volume"
)

// This file holds the methods on snapshots of an image.

// Snapshots implements ceph.Image. The names of removed ones are those that librbd gave them.
func (i *image) Snapshots() ([]ceph.Snapshot, error) {
	opened, err := i.open()
	if err != nil {
		return nil, err
	}
	listed, err := opened.GetSnapshotNames()
	if err != nil {
		return nil, wrap(err, "list the snapshots of image %s", i)
	}
	snapshots := make([]ceph.Snapshot, 0, len(listed))
	for _, s := range listed {
		namespace, namespaceErr := opened.GetSnapNamespaceType(s.Id)
		created, createdErr := opened.GetSnapTimestamp(s.Id)
		if err := cmp.Or(namespaceErr, createdErr); err != nil {
			return nil, wrap(err, "read snapshot %d of image %s", s.Id, i)
		}
		snapshots = append(snapshots, ceph.Snapshot{
			ID: s.Id, Name: s.Name, Size: s.Size, Created: time.Unix(created.Sec, created.Nsec),
			IsRemoved: namespace == rbd.SnapNamespaceTypeTrash,
			IsForeign: namespace != rbd.SnapNamespaceTypeTrash && namespace != rbd.SnapNamespaceTypeUser,
		})
	}
	slices.SortFunc(snapshots, func(a, b ceph.Snapshot) int { return cmp.Compare(a.ID, b.ID) })
	return snapshots, nil
}

// CreateSnapshot implements ceph.Image. librbd does it if a client uses the image.
func (i *image) CreateSnapshot(name string) error {
	if isDone, err := i.addSnapshot(name); isDone || err != nil {
		return wrap(err, "take snapshot %s@%s", i, name)
	}
	opened, err := i.open()
	if err != nil {
		return err
	}
	_, err = opened.CreateSnapshot(name)
	return wrap(err, "take snapshot %s@%s", i, name)
}

// RemoveSnapshot implements ceph.Image. Of an image that is open read-only it removes snapshots
// also while the pool is full: opening an image for writing waits then.
func (i *image) RemoveSnapshot(name string) error {
	if isDone, err := i.retireSnapshot(name); isDone || err != nil {
		return wrap(err, "remove snapshot %s@%s", i, name)
	}
	return i.write(func(writable *rbd.Image) error {
		return wrap(writable.GetSnapshot(name).Remove(), "remove snapshot %s@%s", i, name)
	})
}

// RemoveSnapshotByID implements ceph.Image, as RemoveSnapshot.
func (i *image) RemoveSnapshotByID(id uint64) error {
	return i.write(func(writable *rbd.Image) error {
		return wrap(writable.RemoveSnapByID(id), "remove snapshot %d of image %s", id, i)
	})
}

// write calls change with the image opened for writing.
func (i *image) write(change func(*rbd.Image) error) error {
	if !i.readOnly {
		opened, err := i.open()
		if err != nil {
			return err
		}
		return change(opened)
	}
	writable, err := rbd.OpenImageById(i.pool.failing, i.id, rbd.NoSnapshot)
	if err != nil {
		return wrap(err, "open image %s", i)
	}
	return volume.Join(change(writable), wrap(writable.Close(), "close image %s", i))
}

// Diff implements ceph.Image. It returns the error of each, which ends it.
func (i *image) Diff(from, to string, offset, length uint64, each func(ceph.Extent) error) error {
	view, err := rbd.OpenImageByIdReadOnly(i.pool.io, i.id, to)
	if err != nil {
		return wrap(err, "open %s@%s", i, to)
	}
	var failure error
	err = view.DiffIterate(rbd.DiffIterateConfig{
		SnapName: from, Offset: offset, Length: length,
		IncludeParent: rbd.IncludeParent, WholeObject: rbd.DisableWholeObject,
		Callback: func(offset, length uint64, exists int, _ any) int {
			failure = each(ceph.Extent{Offset: offset, Length: length, Exists: exists != 0})
			if failure != nil {
				return -int(unix.ECANCELED)
			}
			return 0
		},
	})
	err = wrap(err, "compare %s@%s with %s", i, from, cmp.Or(to, "the image"))
	return cmp.Or(failure, err, wrap(view.Close(), "close %s@%s", i, to))
}
