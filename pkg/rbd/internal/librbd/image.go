//go:build ceph

package librbd

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ceph/go-ceph/rbd"
	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/volume"
)

// image implements ceph.Image.
type image struct {
	pool     *pool
	opened   *rbd.Image
	name, id string // name is empty if the image was opened by id
	readOnly bool
}

func (i *image) String() string { return i.pool.path(cmp.Or(i.name, "id:"+i.id)) }

// Info implements ceph.Image: by one operation, two if the image was opened by id.
func (i *image) Info() (ceph.ImageInfo, error) {
	header, err := i.pool.stat(i.id)
	if err != nil {
		return ceph.ImageInfo{}, err
	}
	info := ceph.ImageInfo{
		Name: i.name, ID: i.id, Size: header.size, IsObjectMapInvalid: header.flags&flagObjectMapInvalid != 0,
	}
	if info.Name == "" {
		if info.Name, err = i.pool.imageName(i.id); err != nil && !errors.Is(err, unix.ENOENT) {
			return ceph.ImageInfo{}, err
		}
	}
	stat, statErr := i.opened.Stat()
	features, featuresErr := i.opened.GetFeatures()
	created, createdErr := i.opened.GetCreateTimestamp()
	dataPool, dataPoolErr := i.opened.GetDataPoolID()
	if err := cmp.Or(statErr, featuresErr, createdErr, dataPoolErr); err != nil {
		return ceph.ImageInfo{}, wrap(err, "read the properties of image %s", i)
	}
	set := rbd.FeatureSet(features)
	info.Features, info.ObjectSize = set.Names(), stat.Obj_size
	slices.Sort(info.Features)
	info.Created = time.Unix(created.Sec, created.Nsec)
	if dataPool != i.pool.id {
		info.DataPool, err = i.pool.connection.PoolName(dataPool)
	}
	return info, err
}

// Size implements ceph.Image, by one operation.
func (i *image) Size() (uint64, error) {
	header, err := i.pool.stat(i.id)
	return header.size, err
}

// Grow implements ceph.Image.
func (i *image) Grow(size uint64) error {
	goOn := func(uint64, uint64, any) int { return 0 }
	return wrap(i.opened.Resize2(size, false, goOn, nil), "resize image %s to %s", i, volume.Size(size)) //nolint:gosec // for a message
}

// Parent implements ceph.Image.
func (i *image) Parent() (ceph.ImageName, bool, error) {
	parent, err := i.opened.GetParent()
	if err = toErrno(err); err == unix.ENOENT { //nolint:errorlint // toErrno returns the number itself
		return ceph.ImageName{}, false, nil
	}
	if err != nil {
		return ceph.ImageName{}, false, wrap(err, "read the parent of image %s", i)
	}
	name := imageName(parent.Image)
	name.Snapshot, name.SnapshotID = parent.Snap.SnapName, parent.Snap.ID
	return name, true, nil
}

// Children implements ceph.Image.
func (i *image) Children() ([]ceph.ImageName, error) {
	specs, err := i.opened.ListChildrenAttributes()
	if err != nil {
		return nil, wrap(err, "list the clones of image %s", i)
	}
	names := make([]ceph.ImageName, 0, len(specs))
	for _, spec := range specs {
		names = append(names, imageName(spec))
	}
	return names, nil
}

func imageName(spec rbd.ImageSpec) ceph.ImageName {
	return ceph.ImageName{
		Pool: spec.PoolName, Namespace: spec.PoolNamespace, Image: spec.ImageName, ID: spec.ImageID, IsInTrash: spec.Trash,
	}
}

// Watchers implements ceph.Image, by one operation.
func (i *image) Watchers() ([]ceph.Watcher, error) {
	listed, err := i.opened.ListWatchers()
	if err != nil {
		return nil, wrap(err, "list the watchers of image %s", i)
	}
	if !i.readOnly {
		self := i.pool.connection.conn.GetInstanceID()
		own := slices.IndexFunc(listed, func(w rbd.ImageWatcher) bool { return uint64(w.Id) == self }) //nolint:gosec // an id
		if own >= 0 {
			listed = slices.Delete(listed, own, own+1)
		}
	}
	watchers := make([]ceph.Watcher, 0, len(listed))
	for _, w := range listed {
		watchers = append(watchers, ceph.Watcher{
			Address: plainAddress(w.Addr), Client: fmt.Sprintf("client.%d", w.Id), Cookie: fmt.Sprint(w.Cookie),
		})
	}
	return watchers, nil
}

// LockHolder implements ceph.Image, by one operation. Locks that people take by `rbd lock add` are
// not the exclusive lock.
func (i *image) LockHolder() (ceph.Watcher, bool, error) {
	locks, err := i.pool.io.ListLockers(headerObject(i.id), "rbd_lock")
	if err != nil {
		return ceph.Watcher{}, false, wrap(err, "read the lock of image %s", i)
	}
	for n := range min(len(locks.Clients), len(locks.Cookies), len(locks.Addrs)) {
		if cookie, ok := strings.CutPrefix(locks.Cookies[n], "auto "); ok {
			return ceph.Watcher{Address: plainAddress(locks.Addrs[n]), Client: locks.Clients[n], Cookie: cookie}, true, nil
		}
	}
	return ceph.Watcher{}, false, nil
}

// Lock implements ceph.Image. EBUSY: the holder of the lock does not watch the image any more. It
// may have writes on their way, and librbd would take the lock from it without fencing it.
func (i *image) Lock() error {
	if err := i.checkHolder(); err != nil {
		return err
	}
	return wrap(i.opened.LockAcquire(rbd.LockModeExclusive), "lock image %s", i)
}

// checkHolder returns EBUSY if a client without a watch holds the lock.
func (i *image) checkHolder() error {
	holder, isHeld, err := i.LockHolder()
	if err != nil || !isHeld {
		return err
	}
	watchers, err := i.opened.ListWatchers()
	if err != nil {
		return wrap(err, "list the watchers of image %s", i)
	}
	for _, w := range watchers {
		if plainAddress(w.Addr) == holder.Address {
			return nil
		}
	}
	return wrap(unix.EBUSY, "lock image %s: its holder %s at %s does not answer", i, holder.Client, holder.Address)
}

// Unlock implements ceph.Image.
func (i *image) Unlock() error { return wrap(i.opened.LockRelease(), "unlock image %s", i) }

// Sparsify implements ceph.Image, in blocks of 4 KiB as `rbd sparsify` does.
func (i *image) Sparsify() error { return wrap(i.opened.Sparsify(4096), "sparsify image %s", i) }

// Flatten implements ceph.Image.
func (i *image) Flatten() error { return wrap(i.opened.Flatten(), "flatten image %s", i) }

// Close implements ceph.Image.
func (i *image) Close() error { return wrap(i.opened.Close(), "close image %s", i) }

// joinClose closes an image after an error and returns both errors.
func joinClose(err error, opened *rbd.Image) error {
	return volume.Join(err, wrap(opened.Close(), "close the image"))
}
