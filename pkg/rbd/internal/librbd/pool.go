//go:build ceph

package librbd

import (
	"errors"
	"math/bits"
	"slices"

	"github.com/ceph/go-ceph/rados"
	"github.com/ceph/go-ceph/rbd"
	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/volume"
)

// pool implements ceph.Pool.
type pool struct {
	connection *connection
	key        poolKey
	id         int64
	// io waits while the pool is full, up to the time-out. Through failing, operations that need
	// space fail at once (EDQUOT, ENOSPC), and those that free some work. A resize through failing
	// would succeed with an object map that is too short: images are opened through io.
	io, failing *rados.IOContext
}

func openPool(c *connection, key poolKey) (*pool, error) {
	p := &pool{connection: c, key: key}
	var err error
	if p.io, err = c.conn.OpenIOContext(key.name); err != nil {
		return nil, wrap(err, "open pool %s of Ceph cluster %s", key.name, c.id)
	}
	if p.failing, err = c.conn.OpenIOContext(key.name); err == nil {
		err = p.failing.SetPoolFullTry()
	}
	if err != nil {
		p.close()
		return nil, wrap(err, "open pool %s of Ceph cluster %s", key.name, c.id)
	}
	p.io.SetNamespace(key.namespace)
	p.failing.SetNamespace(key.namespace)
	p.id = p.io.GetPoolID()
	return p, nil
}

func (p *pool) close() {
	for _, io := range []*rados.IOContext{p.io, p.failing} {
		if io != nil {
			io.Destroy()
		}
	}
}

// path names an image for messages.
func (p *pool) path(image string) string {
	if p.key.namespace == "" {
		return p.key.name + "/" + image
	}
	return p.key.name + "/" + p.key.namespace + "/" + image
}

// ID implements ceph.Pool.
func (p *pool) ID() int64 { return p.id }

// Create implements ceph.Pool.
func (p *pool) Create(name string, size uint64, o ceph.ImageOptions) error {
	options, err := imageOptions(o)
	if err != nil {
		return wrap(err, "create image %s", p.path(name))
	}
	defer options.Destroy()
	return wrap(rbd.CreateImage(p.failing, name, size, options), "create image %s", p.path(name))
}

// Clone implements ceph.Pool.
func (p *pool) Clone(parent ceph.Pool, image, snapshot, name string, o ceph.ImageOptions) error {
	from, ok := parent.(*pool)
	if !ok || from.connection != p.connection {
		return wrap(unix.EXDEV, "clone image %s: its source lies behind another connection", p.path(name))
	}
	options, err := imageOptions(o)
	if err != nil {
		return wrap(err, "clone image %s", p.path(name))
	}
	defer options.Destroy()
	if err := options.SetUint64(rbd.ImageOptionCloneFormat, 2); err != nil {
		return wrap(err, "clone image %s", p.path(name))
	}
	return wrap(rbd.CloneImage(from.failing, image, snapshot, p.failing, name, options),
		"clone image %s from %s@%s", p.path(name), from.path(image), snapshot)
}

// imageOptions returns the options as librbd takes them; the caller destroys them. EINVAL.
func imageOptions(o ceph.ImageOptions) (*rbd.ImageOptions, error) {
	features := uint64(0)
	for _, name := range o.Features {
		feature := uint64(rbd.FeatureSetFromNames([]string{name}))
		if feature == 0 {
			return nil, wrap(unix.EINVAL, "image feature %q is not known", name)
		}
		features |= feature
	}
	if o.ObjectSize&(o.ObjectSize-1) != 0 {
		return nil, wrap(unix.EINVAL, "object size %d is not a power of two", o.ObjectSize)
	}
	options := rbd.NewRbdImageOptions()
	numbers := map[rbd.ImageOption]uint64{rbd.ImageOptionFeatures: features}
	if o.ObjectSize > 0 {
		numbers[rbd.ImageOptionOrder] = uint64(bits.TrailingZeros64(o.ObjectSize)) //nolint:gosec // 0 to 63
	}
	if o.StripeUnit > 0 || o.StripeCount > 0 {
		numbers[rbd.ImageOptionStripeUnit], numbers[rbd.ImageOptionStripeCount] = o.StripeUnit, o.StripeCount
	}
	for option, value := range numbers {
		if err := options.SetUint64(option, value); err != nil {
			options.Destroy()
			return nil, err
		}
	}
	if o.DataPool != "" {
		if err := options.SetString(rbd.ImageOptionDataPool, o.DataPool); err != nil {
			options.Destroy()
			return nil, err
		}
	}
	return options, nil
}

// Open implements ceph.Pool, by one operation, and one more at the first use of the image.
func (p *pool) Open(name string, readOnly bool) (ceph.Image, error) {
	id, err := p.ImageID(name)
	if err != nil {
		return nil, err
	}
	return &image{pool: p, name: name, id: id, readOnly: readOnly}, nil
}

// OpenID implements ceph.Pool, by one operation.
func (p *pool) OpenID(id string, readOnly bool) (ceph.Image, error) {
	if _, err := p.readHeader(p.io, id); err != nil {
		return nil, wrap(err, "open the image of id %s in %s", id, p.path(""))
	}
	return &image{pool: p, id: id, readOnly: readOnly}, nil
}

// Rename implements ceph.Pool. A full pool refuses librbd's new object with the id.
func (p *pool) Rename(name, newName string) error {
	err := toErrno(rbd.GetImage(p.failing, name).Rename(newName))
	if errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.ENOSPC) {
		err = p.forceRename(name, newName)
	}
	return wrap(err, "rename image %s to %s", p.path(name), newName)
}

// forceRename renames an image, also in a full pool, by the steps of librbd
// (src/librbd/operation/RenameRequest.cc).
func (p *pool) forceRename(name, newName string) error {
	id, err := p.ImageID(name)
	if err != nil {
		return err
	}
	if err := p.force("rbd_id."+newName, appendText(nil, id)); err != nil {
		return err
	}
	in := appendText(appendText(appendText(nil, name), newName), id)
	if err := p.change("rbd_directory", "dir_rename_image", in); err != nil {
		return err
	}
	return p.failing.Delete("rbd_id." + name)
}

// Remove implements ceph.Pool. librbd reports ENOENT also if it cannot make its trash object, in a
// full pool in which no image was ever removed. Remove then makes the object, and removes again.
func (p *pool) Remove(name string) error {
	err := p.remove(name)
	if errors.Is(err, unix.EIO) {
		if errTrash := p.force("rbd_trash", nil); errTrash == nil || errors.Is(errTrash, unix.EEXIST) {
			err = p.remove(name)
		}
	}
	return wrap(err, "remove image %s", p.path(name))
}

// remove removes an image. EIO: it exists, although librbd reports ENOENT, which would mean success
// to callers.
func (p *pool) remove(name string) error {
	err := toErrno(rbd.RemoveImage(p.failing, name))
	if errors.Is(err, unix.ENOENT) {
		if _, idErr := p.ImageID(name); !errors.Is(idErr, unix.ENOENT) {
			err = volume.Join(unix.EIO, idErr)
		}
	}
	return err
}

// RemoveFromTrash implements ceph.Pool.
func (p *pool) RemoveFromTrash(imageID string) error {
	const isForced = false // an image that is kept until a certain time stays
	err := rbd.TrashRemove(p.failing, imageID, isForced)
	return wrap(err, "remove image id %s from the trash of %s", imageID, p.path(""))
}

// List implements ceph.Pool.
func (p *pool) List() ([]string, error) {
	names, err := rbd.GetImageNames(p.io)
	return names, wrap(err, "list the images of %s", p.path(""))
}

// Namespaces implements ceph.Pool.
func (p *pool) Namespaces() ([]string, error) {
	names, err := rbd.NamespaceList(p.io)
	names = slices.DeleteFunc(names, func(name string) bool { return name == "" })
	return names, wrap(err, "list the namespaces of pool %s", p.key.name)
}
