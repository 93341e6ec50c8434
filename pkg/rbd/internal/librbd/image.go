//go:build ceph

package librbd

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/ceph/go-ceph/rbd"
	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
)

// image implements ceph.Image. librbd needs 11 operations to open an image for reading, and takes
// the lock from the node that uses it when it changes an image that is open for writing. What the
// object class does by one operation is done by it, and librbd opens the image when that is needed.
type image struct {
	pool     *pool
	name, id string // name is empty if the image was opened by id
	readOnly bool

	mu     sync.Mutex
	opened *rbd.Image // guarded by mu; nil: librbd has not opened the image
}

func (i *image) String() string { return i.pool.path(cmp.Or(i.name, "id:"+i.id)) }

// open returns the image as librbd has it open. It is opened by its id: the name may be another
// image's by now.
func (i *image) open() (*rbd.Image, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.opened != nil {
		return i.opened, nil
	}
	open := rbd.OpenImageById
	if i.readOnly {
		open = rbd.OpenImageByIdReadOnly
	}
	opened, err := open(i.pool.io, i.id, rbd.NoSnapshot)
	if err != nil {
		return nil, wrap(err, "open image %s", i)
	}
	i.opened = opened
	return opened, nil
}

// isOpen reports whether librbd has the image open: then it has to make all changes, which it knows
// of otherwise only when it reads the header again.
func (i *image) isOpen() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.opened != nil
}

// Close implements ceph.Image.
func (i *image) Close() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.opened == nil {
		return nil
	}
	opened := i.opened
	i.opened = nil
	return wrap(opened.Close(), "close image %s", i)
}

// Info implements ceph.Image: by one operation, two if the image was opened by id.
func (i *image) Info() (ceph.ImageInfo, error) {
	h, err := i.pool.readHeader(i.pool.io, i.id)
	if err != nil {
		return ceph.ImageInfo{}, wrap(err, "read the properties of image %s", i)
	}
	set := rbd.FeatureSet(h.features)
	info := ceph.ImageInfo{
		Name: i.name, ID: i.id, Size: h.size, Features: set.Names(), ObjectSize: h.objectSize, Created: h.created,
		IsObjectMapInvalid: h.flags&flagObjectMapInvalid != 0,
	}
	slices.Sort(info.Features)
	if info.Name == "" {
		if info.Name, err = i.pool.imageName(i.id); err != nil && !errors.Is(err, unix.ENOENT) {
			return ceph.ImageInfo{}, err
		}
	}
	if h.dataPool < 0 {
		return info, nil
	}
	info.DataPool, err = i.pool.connection.PoolName(h.dataPool)
	return info, err
}

// Size implements ceph.Image, by one operation.
func (i *image) Size() (uint64, error) {
	h, err := i.pool.readHeader(i.pool.io, i.id)
	return h.size, wrap(err, "read the size of image %s", i)
}

// Parent implements ceph.Image.
func (i *image) Parent() (ceph.ImageName, bool, error) {
	opened, err := i.open()
	if err != nil {
		return ceph.ImageName{}, false, err
	}
	parent, err := opened.GetParent()
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
	opened, err := i.open()
	if err != nil {
		return nil, err
	}
	specs, err := opened.ListChildrenAttributes()
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

// Watchers implements ceph.Image.
func (i *image) Watchers() ([]ceph.Watcher, error) {
	listed, err := i.allWatchers()
	if err != nil {
		return nil, err
	}
	if !i.readOnly {
		self := fmt.Sprintf("client.%d", i.pool.connection.conn.GetInstanceID())
		if own := slices.IndexFunc(listed, func(w ceph.Watcher) bool { return w.Client == self }); own >= 0 {
			listed = slices.Delete(listed, own, own+1)
		}
	}
	return listed, nil
}

// allWatchers returns the watchers with this client.
func (i *image) allWatchers() ([]ceph.Watcher, error) {
	opened, err := i.open()
	if err != nil {
		return nil, err
	}
	listed, err := opened.ListWatchers()
	if err != nil {
		return nil, wrap(err, "list the watchers of image %s", i)
	}
	watchers := make([]ceph.Watcher, 0, len(listed))
	for _, w := range listed {
		watchers = append(watchers, ceph.Watcher{
			Address: plainAddress(w.Addr), Client: fmt.Sprintf("client.%d", w.Id), Cookie: fmt.Sprint(w.Cookie),
		})
	}
	return watchers, nil
}

// lockName is the name of the exclusive lock on the header (Ceph, RBD_LOCK_NAME).
const lockName = "rbd_lock"

// LockHolder implements ceph.Image, by one operation. Locks that people take by `rbd lock add` are
// not the exclusive lock.
func (i *image) LockHolder() (ceph.Watcher, bool, error) {
	locks, err := i.pool.io.ListLockers(headerObject(i.id), lockName)
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
