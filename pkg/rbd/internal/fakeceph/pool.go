package fakeceph

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
)

// This file holds the calls on pools: images by name.
var _ ceph.Pool = (*openPool)(nil)

const (
	defaultObjectSize = 4 << 20
	// maxObjectMapObjects is librbd's limit for images with an object map.
	maxObjectMapObjects = 256_000_000
)

// openPool is a namespace of a pool as one client has it open.
type openPool struct {
	*client

	pool      *pool
	namespace string
}

func (p *openPool) ID() int64 { return p.pool.id }

// find returns the images of the namespace. ENOENT: it does not exist.
func (p *openPool) find() (*namespace, error) {
	if n := p.pool.namespaces[p.namespace]; n != nil && p.server.pools[p.pool.name] == p.pool {
		return n, nil
	}
	return nil, unix.ENOENT
}

// image returns the image of that name, also one without a header. ENOENT.
func (p *openPool) image(name string) (*namespace, *image, error) {
	n, err := p.find()
	if err != nil {
		return nil, nil, err
	}
	if im := n.ids[name]; im != nil {
		return n, im, nil
	}
	return nil, nil, unix.ENOENT
}

// imageByID returns the image of that id, also one in the trash. ENOENT.
func (p *openPool) imageByID(id string) (*image, error) {
	n, err := p.find()
	if err != nil {
		return nil, err
	}
	for _, im := range n.images {
		if im.id == id && !im.hasNoHeader {
			return im, nil
		}
	}
	if im := n.trash[id]; im != nil && !im.hasNoHeader {
		return im, nil
	}
	return nil, unix.ENOENT
}

func (p *openPool) Create(name string, size uint64, options ceph.ImageOptions) error {
	var im *image
	return p.call("Pool.Create", p.pool, func() (err error) {
		im, err = p.create(name, size, options)
		return err
	}, func() error { im.hasNoHeader = false; return nil })
}

// create makes the name of an image.
func (p *openPool) create(name string, size uint64, options ceph.ImageOptions) (*image, error) {
	n, err := p.find()
	if err != nil {
		return nil, err
	}
	if n.images[name] != nil || n.ids[name] != nil {
		return nil, unix.EEXIST
	}
	features, err := checkOptions(name, size, options)
	if err != nil {
		return nil, err
	}
	if options.DataPool != "" && p.server.pools[options.DataPool] == nil {
		return nil, unix.ENOENT
	}
	p.server.imageIDs++
	im := &image{
		pool: p.pool, namespaceName: p.namespace, namespace: n, name: name, number: p.server.imageIDs,
		id: fmt.Sprintf("%x%08x", 0x10, 0x51d00000+p.server.imageIDs), size: size, features: features,
		objectSize: max(options.ObjectSize, 1<<12), dataPool: options.DataPool, created: time.Now(),
		metadata: make(map[string]string), blocks: make(map[uint64]uint64), hasNoHeader: true,
	}
	if options.ObjectSize == 0 {
		im.objectSize = defaultObjectSize
	}
	n.ids[name], n.images[name] = im, im
	return im, nil
}

// checkOptions returns the features of a new image, or EINVAL.
func checkOptions(name string, size uint64, options ceph.ImageOptions) ([]string, error) {
	features := slices.Clone(options.Features)
	if len(features) == 0 {
		features = []string{"layering", "exclusive-lock", "object-map", "fast-diff", "deep-flatten"}
	}
	if options.DataPool != "" && !slices.Contains(features, "data-pool") {
		features = append(features, "data-pool")
	}
	known := []string{
		"layering", "striping", "exclusive-lock", "object-map", "fast-diff", "deep-flatten", "journaling", "data-pool",
	}
	has := func(feature string) bool { return slices.Contains(features, feature) }
	objectSize := options.ObjectSize
	if objectSize == 0 {
		objectSize = defaultObjectSize
	}
	switch {
	case name == "",
		slices.ContainsFunc(features, func(f string) bool { return !slices.Contains(known, f) }),
		has("object-map") && !has("exclusive-lock"), has("fast-diff") && !has("object-map"),
		has("journaling") && !has("exclusive-lock"),
		objectSize&(objectSize-1) != 0 || objectSize < 1<<12 || objectSize > 1<<25,
		has("object-map") && size/objectSize > maxObjectMapObjects:
		return nil, unix.EINVAL
	}
	return features, nil
}

func (p *openPool) Clone(parent ceph.Pool, imageName, snapshotName, name string, options ceph.ImageOptions) error {
	var im *image
	var snap *snapshot
	return p.call("Pool.Clone", p.pool, func() error {
		from, ok := parent.(*openPool)
		if !ok || from.server != p.server {
			return unix.EXDEV
		}
		_, source, err := from.image(imageName)
		if err != nil {
			return err
		}
		if snap = source.snapshotByName(snapshotName); snap == nil {
			return unix.ENOENT
		}
		if !slices.Contains(source.features, "layering") {
			return unix.ENOSYS
		}
		im, err = p.create(name, snap.size, options)
		return err
	}, func() error {
		im.hasNoHeader = false
		return nil
	}, func() error {
		im.parent, im.overlap = snap, snap.size
		return nil
	}, func() error {
		snap.children = append(snap.children, im)
		return nil
	}, func() error {
		im.metadata = maps.Clone(snap.image.metadata) // librbd copies the metadata of the parent
		return nil
	})
}

func (p *openPool) Open(name string, readOnly bool) (ceph.Image, error) {
	return p.open("Pool.Open", readOnly, func() (*image, error) {
		_, im, err := p.image(name)
		if err == nil && im.hasNoHeader {
			err = unix.ENOENT
		}
		return im, err
	})
}

func (p *openPool) OpenID(id string, readOnly bool) (ceph.Image, error) {
	return p.open("Pool.OpenID", readOnly, func() (*image, error) { return p.imageByID(id) })
}

func (p *openPool) open(name string, readOnly bool, find func() (*image, error)) (ceph.Image, error) {
	var out *openImage
	err := p.call(name, nil, func() error {
		im, err := find()
		if err != nil {
			return err
		}
		out = &openImage{client: p.client, image: im, name: im.name, isReadOnly: readOnly}
		if !readOnly {
			out.watch = im.addWatch(p.client)
		}
		return nil
	})
	if err != nil {
		if out != nil {
			_ = out.end() // librbd ends the watch of an open that fails late
		}
		return nil, err
	}
	return out, nil
}

func (p *openPool) Rename(name, newName string) error {
	var n *namespace
	var im *image
	return p.call("Pool.Rename", p.pool, func() (err error) {
		if n, im, err = p.image(name); err != nil {
			return err
		}
		if n.ids[newName] != nil {
			return unix.EEXIST
		}
		n.ids[newName] = im
		return nil
	}, func() error {
		if n.images[name] != im {
			return unix.ENOENT
		}
		delete(n.images, name)
		im.name = newName
		n.images[newName] = im
		return nil
	}, func() error {
		delete(n.ids, name)
		return nil
	})
}

// Remove moves the image to the trash and removes it from there. If the object with its id is
// missing, it continues a removal that was interrupted, or removes the name.
func (p *openPool) Remove(name string) error {
	var n *namespace
	var im *image
	isMoved := false
	return p.call("Pool.Remove", p.pool, func() (err error) {
		if n, err = p.find(); err != nil {
			return err
		}
		if im = n.ids[name]; im == nil {
			im, isMoved = n.interrupted(name)
		}
		if im == nil {
			return unix.ENOENT
		}
		if err := im.checkRemovable(); err != nil {
			return err
		}
		im.isRemoving = true
		n.trash[im.id] = im
		return nil
	}, func() error {
		delete(n.ids, name)
		return nil
	}, func() error {
		if !isMoved {
			delete(n.images, name)
		}
		return nil
	}, func() error {
		im.detach()
		return nil
	}, func() error {
		im.hasNoHeader = true
		return nil
	}, func() error {
		delete(n.trash, im.id)
		im.isGone = true
		return nil
	})
}

// interrupted returns an image whose removal was interrupted: one in the trash, of which librbd
// then leaves the name in the directory, or one of which the name is left.
func (n *namespace) interrupted(name string) (im *image, isMoved bool) {
	for _, im := range n.trash {
		if im.name == name && im.isRemoving {
			return im, true
		}
	}
	if im := n.images[name]; im != nil && im.hasNoHeader {
		return im, false
	}
	return nil, false
}

// checkRemovable returns why Ceph does not remove the image.
func (im *image) checkRemovable() error {
	switch {
	case len(im.snapshots) > 0 || im.group != "":
		return unix.ENOTEMPTY
	case len(im.watches) > 0:
		return unix.EBUSY
	}
	return nil
}

func (p *openPool) RemoveFromTrash(imageID string) error {
	return p.call("Pool.RemoveFromTrash", p.pool, func() error {
		n, err := p.find()
		if err != nil {
			return err
		}
		im := n.trash[imageID]
		if im == nil {
			return unix.ENOENT
		}
		if err := im.checkRemovable(); err != nil {
			return err
		}
		delete(n.trash, imageID)
		im.isGone, im.hasNoHeader = true, true
		im.detach()
		return nil
	})
}

func (p *openPool) List() ([]string, error) {
	var out []string
	err := p.call("Pool.List", nil, func() error {
		if n, err := p.find(); err == nil {
			out = slices.Collect(maps.Keys(n.images))
		}
		return nil
	})
	return out, err
}

func (p *openPool) Namespaces() ([]string, error) {
	var out []string
	err := p.call("Pool.Namespaces", nil, func() error {
		out = slices.DeleteFunc(slices.Sorted(maps.Keys(p.pool.namespaces)), func(name string) bool { return name == "" })
		return nil
	})
	return out, err
}

// AwaitMap implements ceph.Pool: clients whose fence has waited for the map are fenced.
func (p *openPool) AwaitMap() error {
	return p.call("Pool.AwaitMap", nil, func() error {
		for _, c := range p.server.live {
			c.isFenced = c.isFenced || c.isFencePending
		}
		return nil
	})
}

func (p *openPool) ImageID(name string) (string, error) {
	id := ""
	err := p.call("Pool.ImageID", nil, func() error {
		_, im, err := p.image(name)
		if err == nil {
			id = im.id
		}
		return err
	})
	return id, err
}

func (p *openPool) Metadata(imageID string) (map[string]string, error) {
	var out map[string]string
	err := p.call("Pool.Metadata", nil, func() error {
		im, err := p.imageByID(imageID)
		if err == nil {
			out = maps.Clone(im.metadata)
		}
		return err
	})
	return out, err
}

func (p *openPool) SetMetadata(imageID, key, value string) error {
	return p.call("Pool.SetMetadata", p.pool, func() error {
		im, err := p.imageByID(imageID)
		if err == nil {
			im.metadata[key] = value
		}
		return err
	})
}

func (p *openPool) RemoveMetadata(imageID, key string) error {
	return p.call("Pool.RemoveMetadata", p.pool, func() error {
		im, err := p.imageByID(imageID)
		if err == nil {
			delete(im.metadata, key)
		}
		return err
	})
}
