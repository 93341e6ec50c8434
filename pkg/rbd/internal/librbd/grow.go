//go:build ceph

package librbd

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/ceph/go-ceph/rados"
	"github.com/ceph/go-ceph/rbd"
	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
)

// This file grows images.
//
// librbd resizes an image with the feature exclusive-lock only while it holds the lock. It takes
// the lock from the node that uses the image, and if that node is cut off from the cluster, waits
// half a minute and breaks the lock. The lock protects the object map and the journal. An image
// with neither needs no lock: growing it changes one number in its header, and a notification makes
// every client that has the image open read the header again. librbd does the same for images
// without the feature (Ceph, src/librbd/operation/ResizeRequest.cc).

// simpleFeatures are the features of images that grow without librbd. Those of mirrored and of
// migrating images are not among them: librbd checks what these allow.
const simpleFeatures = rbd.FeatureLayering | rbd.FeatureStripingV2 | rbd.FeatureExclusiveLock |
	rbd.FeatureDeepFlatten | rbd.FeatureDataPool | rbd.FeatureOperations

// notifyTimeout bounds the wait for clients that have the image open, as in librbd. A node that
// does not answer reads the header when it reaches the cluster again.
const notifyTimeout = 5 * time.Second

// maxHeaderAttempts bounds the attempts when other clients change the header at the same time.
const maxHeaderAttempts = 10

// Grow implements ceph.Image.
func (i *image) Grow(size uint64) error {
	if i.readOnly {
		return wrap(unix.EROFS, "resize image %s", i)
	}
	isSimple, err := i.growHeader(size)
	if err != nil || isSimple {
		return wrap(err, "resize image %s to %s", i, volume.Size(size)) //nolint:gosec // for a message
	}
	opened, err := i.open()
	if err != nil {
		return err
	}
	// A callback that is nil fails with EINVAL, as a smaller size does.
	goOn := func(uint64, uint64, any) int { return 0 }
	return wrap(opened.Resize2(size, false, goOn, nil),
		"resize image %s to %s", i, volume.Size(size)) //nolint:gosec // for a message
}

// growHeader sets the size in the header, unless the image has features that need librbd: then it
// returns false. It fails if the header changes between reading and writing, so that it never
// undoes what another client has done meanwhile, and tries again.
func (i *image) growHeader(size uint64) (isSimple bool, err error) {
	io, err := i.openIO()
	if err != nil {
		return false, err
	}
	defer io.Destroy()
	for range maxHeaderAttempts {
		h, err := i.pool.readHeader(io, i.id)
		if err != nil {
			return false, err
		}
		switch {
		case h.features&^simpleFeatures != 0:
			return false, nil
		case size < h.size:
			return true, unix.EINVAL
		case size == h.size:
			return true, nil
		}
		version, err := io.GetLastVersion()
		if err != nil {
			return false, err
		}
		err = i.changeVersion(io, version, "set_size", binary.LittleEndian.AppendUint64(nil, size))
		if err == nil {
			return true, i.notifyWatchers(io)
		}
		if !isOutdated(err) {
			return true, err
		}
	}
	return true, unix.EBUSY
}

// openIO returns an I/O context of the caller's own, which it destroys. The version of the object
// that was read last belongs to the context, so that each call needs one.
func (i *image) openIO() (*rados.IOContext, error) {
	io, err := i.pool.connection.conn.OpenIOContext(i.pool.key.name)
	if err != nil {
		return nil, err
	}
	io.SetNamespace(i.pool.key.namespace)
	return io, nil
}

// changeVersion calls a method of the class that changes the header, if the header still has the
// version. ERANGE, EOVERFLOW: it has another.
func (i *image) changeVersion(io *rados.IOContext, version uint64, name string, in []byte) error {
	op := rados.CreateWriteOp()
	defer op.Release()
	op.AssertVersion(version)
	op.Exec(classRBD, name, in)
	return toErrno(op.Operate(io, headerObject(i.id), rados.OperationNoFlag))
}

// isOutdated reports whether changeVersion has found another version.
func isOutdated(err error) bool { return errors.Is(err, unix.ERANGE) || errors.Is(err, unix.EOVERFLOW) }

// notifyWatchers makes the clients that have the image open read its header, and returns when they
// have done so or do not answer in time. A notification without content means that the header has
// changed.
func (i *image) notifyWatchers(io *rados.IOContext) error {
	_, _, err := io.NotifyWithTimeout(headerObject(i.id), nil, notifyTimeout)
	if err = toErrno(err); errors.Is(err, unix.ETIMEDOUT) {
		return nil
	}
	return err
}
