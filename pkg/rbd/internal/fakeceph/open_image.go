package fakeceph

import (
	"errors"
	"maps"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
)

// This file holds the calls on open images.
var _ ceph.Image = (*openImage)(nil)

// openImage is an image as one client has it open.
type openImage struct {
	*client

	image      *image
	name       string // when it was opened: librbd does not notice a rename
	isReadOnly bool
	isClosed   bool
	watch      *watch // nil: opened read-only
}

// read runs a call that changes nothing.
func (o *openImage) read(name string, f func() error) error { return o.run("Image."+name, nil, f) }

// write runs a call that changes the image, and that needs its exclusive lock.
func (o *openImage) write(name string, f func() error) error {
	return o.change(name, func() error {
		if err := o.image.takeLock(o.client); err != nil {
			return err
		}
		return f()
	})
}

// change runs a call that changes the image.
func (o *openImage) change(name string, f func() error) error {
	return o.run("Image."+name, o.image.pool, func() error {
		if o.isReadOnly {
			return unix.EROFS
		}
		return f()
	})
}

func (o *openImage) run(name string, writes *pool, f func() error) error {
	return o.call(name, writes, func() error {
		switch {
		case o.isClosed:
			return unix.EBADF
		case o.image.isGone:
			return unix.ENOENT
		}
		return f()
	})
}

func (o *openImage) Info() (ceph.ImageInfo, error) {
	var out ceph.ImageInfo
	err := o.read("Info", func() error {
		im := o.image
		out = ceph.ImageInfo{
			Name: o.name, ID: im.id, Size: im.size, Features: im.allFeatures(), ObjectSize: im.objectSize,
			DataPool: im.dataPool, Created: im.created, IsObjectMapInvalid: im.isObjectMapInvalid,
		}
		return nil
	})
	return out, err
}

func (o *openImage) Size() (uint64, error) {
	size := uint64(0)
	err := o.read("Size", func() error {
		size = o.image.size
		return nil
	})
	return size, err
}

// Grow needs the exclusive lock only for an image with an object map: package librbd changes the
// size in the header of others.
func (o *openImage) Grow(size uint64) error {
	return o.change("Grow", func() error {
		if o.image.hasFeature("object-map") {
			if err := o.image.takeLock(o.client); err != nil {
				return err
			}
		}
		if size < o.image.size || o.image.hasFeature("object-map") && size/o.image.objectSize > maxObjectMapObjects {
			return unix.EINVAL
		}
		o.image.resize(size)
		return nil
	})
}

func (o *openImage) Snapshots() ([]ceph.Snapshot, error) {
	var out []ceph.Snapshot
	err := o.read("Snapshots", func() error {
		for _, s := range o.image.snapshots {
			out = append(out, ceph.Snapshot{
				ID: s.id, Name: s.name, Size: s.size, Created: s.created, IsRemoved: s.isRemoved, IsForeign: s.isForeign,
			})
		}
		return nil
	})
	return out, err
}

func (o *openImage) CreateSnapshot(name string) error {
	return o.write("CreateSnapshot", func() error {
		if o.image.snapshotByName(name) != nil {
			return unix.EEXIST
		}
		o.image.addSnapshot(name)
		return nil
	})
}

func (o *openImage) RemoveSnapshot(name string) error {
	// Also on an image that is open read-only: librbd opens it again.
	return o.run("Image.RemoveSnapshot", o.image.pool, func() error {
		if err := o.image.takeLock(o.client); err != nil {
			return err
		}
		snap := o.image.snapshotByName(name)
		if snap == nil {
			return unix.ENOENT
		}
		o.image.removeSnapshot(snap)
		return nil
	})
}

func (o *openImage) RemoveSnapshotByID(id uint64) error {
	return o.run("Image.RemoveSnapshotByID", o.image.pool, func() error {
		if err := o.image.takeLock(o.client); err != nil {
			return err
		}
		for _, snap := range o.image.snapshots {
			if snap.id != id {
				continue
			}
			if len(snap.children) > 0 {
				return unix.EBUSY
			}
			o.image.removeSnapshot(snap)
			return nil
		}
		return unix.ENOENT
	})
}

func (o *openImage) Children() ([]ceph.ImageName, error) {
	var out []ceph.ImageName
	err := o.read("Children", func() error {
		for _, snap := range o.image.snapshots {
			for _, child := range snap.children {
				out = append(out, child.imageName())
			}
		}
		return nil
	})
	return out, err
}

func (o *openImage) Parent() (ceph.ImageName, bool, error) {
	var out ceph.ImageName
	err := o.read("Parent", func() error {
		if snap := o.image.parent; snap != nil {
			out = snap.image.imageName()
			out.Snapshot, out.SnapshotID = snap.name, snap.id
		}
		return nil
	})
	return out, out.ID != "", err
}

func (o *openImage) Watchers() ([]ceph.Watcher, error) {
	var out []ceph.Watcher
	err := o.read("Watchers", func() error {
		for _, w := range o.image.watches {
			if w != o.watch {
				out = append(out, w.watcher())
			}
		}
		return nil
	})
	return out, err
}

func (o *openImage) LockHolder() (ceph.Watcher, bool, error) {
	var out ceph.Watcher
	err := o.read("LockHolder", func() error {
		if o.image.lock != nil {
			out = (&watch{client: o.image.lock.client}).watcher()
		}
		return nil
	})
	return out, out.Address != "", err
}

// Diff reports whole blocks of 64 KiB; librbd reports the bytes that were written.
func (o *openImage) Diff(from, to string, offset, length uint64, each func(ceph.Extent) error) error {
	var extents []ceph.Extent
	err := o.read("Diff", func() error {
		before, after := map[uint64]uint64{}, o.image.content()
		if from != "" {
			snap := o.image.snapshotByName(from)
			if snap == nil {
				return unix.ENOENT
			}
			before = snap.content()
		}
		if to != "" {
			snap := o.image.snapshotByName(to)
			if snap == nil {
				return unix.ENOENT
			}
			after = snap.content()
		}
		extents = diff(before, after, offset, length)
		return nil
	})
	for _, extent := range extents {
		if err := each(extent); err != nil {
			return err
		}
	}
	return err
}

func diff(before, after map[uint64]uint64, offset, length uint64) []ceph.Extent {
	blocks := maps.Clone(before)
	maps.Copy(blocks, after)
	var out []ceph.Extent
	for _, block := range slices.Sorted(maps.Keys(blocks)) {
		begin, end := max(block*blockSize, offset), min((block+1)*blockSize, offset+length)
		if before[block] == after[block] || begin >= end {
			continue
		}
		extent := ceph.Extent{Offset: begin, Length: end - begin, Exists: after[block] != 0}
		if last := len(out) - 1; last >= 0 && out[last].Exists == extent.Exists &&
			out[last].Offset+out[last].Length == extent.Offset {
			out[last].Length += extent.Length
			continue
		}
		out = append(out, extent)
	}
	return out
}

// Flatten does what `rbd flatten` does: the driver never does that.
func (o *openImage) Flatten() error {
	return o.write("Flatten", func() error {
		if o.image.parent == nil {
			return unix.EINVAL
		}
		o.image.blocks = o.image.content()
		o.image.detach()
		return nil
	})
}

// Close ends the use of the image whatever it returns.
func (o *openImage) Close() error {
	return errors.Join(o.call("Image.Close", nil, func() error { return nil }), o.end())
}

func (o *openImage) end() error {
	o.server.mu.Lock()
	defer o.server.mu.Unlock()
	if o.isClosed {
		return unix.EBADF
	}
	o.isClosed = true
	o.image.watches = slices.DeleteFunc(o.image.watches, func(w *watch) bool { return w == o.watch })
	isOpen := slices.ContainsFunc(o.image.watches, func(w *watch) bool { return w.client == o.client })
	if l := o.image.lock; l != nil && l.client == o.client && !isOpen {
		o.image.lock = nil
	}
	return nil
}
