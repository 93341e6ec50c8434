package fakeceph

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// This file holds the calls on RADOS objects.

// CreateObject implements ceph.Pool.
func (p *openPool) CreateObject(name string, content []byte) error {
	return p.call("Pool.CreateObject", p.pool, func() error { return p.createObject(name, content) })
}

// ForceObject implements ceph.Pool.
func (p *openPool) ForceObject(name string, content []byte) error {
	return p.call("Pool.ForceObject", nil, func() error { return p.createObject(name, content) })
}

func (p *openPool) createObject(name string, content []byte) error {
	objects := p.objects()
	if objects[name] != nil {
		return unix.EEXIST
	}
	objects[name] = &object{content: slices.Clone(content), omap: make(map[string]string)}
	return nil
}

func (p *openPool) ReadObject(name string) ([]byte, error) {
	var out []byte
	err := p.call("Pool.ReadObject", nil, func() error {
		o := p.objects()[name]
		if o == nil {
			return unix.ENOENT
		}
		out = slices.Clone(o.content)
		return nil
	})
	return out, err
}

func (p *openPool) RemoveObject(name string) error {
	return p.call("Pool.RemoveObject", p.pool, func() error {
		if image, ok := strings.CutPrefix(name, "rbd_id."); ok {
			n, _, err := p.image(image)
			if err == nil {
				delete(n.ids, image)
			}
			return err
		}
		if p.objects()[name] == nil {
			return unix.ENOENT
		}
		delete(p.objects(), name)
		return nil
	})
}

func (p *openPool) OmapValues(name string, keys ...string) (map[string]string, error) {
	var out map[string]string
	err := p.call("Pool.OmapValues", nil, func() error {
		var err error
		if out, err = p.omap(name); err != nil {
			return err
		}
		if len(keys) > 0 {
			maps.DeleteFunc(out, func(key, _ string) bool { return !slices.Contains(keys, key) })
		}
		return nil
	})
	return out, err
}

// omap returns the keys of an object. Of librbd's own objects it has those that name images and
// snapshots. ENOENT.
func (p *openPool) omap(name string) (map[string]string, error) {
	if o := p.objects()[name]; o != nil {
		return maps.Clone(o.omap), nil
	}
	n, err := p.find()
	if err != nil {
		return nil, err
	}
	out := make(map[string]string)
	if name == "rbd_directory" {
		for _, im := range n.images {
			out["id_"+im.id], out["name_"+im.name] = encodeText(im.name), encodeText(im.id)
		}
		return out, nil
	}
	if name == "rbd_trash" {
		for _, im := range n.trash {
			out["id_"+im.id] = im.encodeTrash()
		}
		return out, nil
	}
	id, isHeader := strings.CutPrefix(name, "rbd_header.")
	im, err := p.imageByID(id)
	if !isHeader || err != nil {
		return nil, unix.ENOENT
	}
	for _, snap := range im.snapshots {
		out[fmt.Sprintf("snapshot_%016x", snap.id)] = snap.encode()
	}
	if im.parent != nil {
		out["parent"] = im.encodeParent()
	}
	if p.server.isFormatUnknown {
		for key, value := range out {
			out[key] = "\x63\x63" + value[2:]
		}
	}
	return out, nil
}

// encode encodes a snapshot as librbd does (cls_rbd_snap of Ceph 16).
func (s *snapshot) encode() string {
	le := binary.LittleEndian
	kind := uint32(0)
	switch {
	case s.isRemoved:
		kind = 2
	case s.isForeign:
		kind = 1
	}
	body := le.AppendUint64(nil, s.id)
	body = le.AppendUint64(append(body, encodeText(s.name)...), s.size)
	body = append(body, make([]byte, 9)...) // protection, flags
	body = append(body, 1, 1)
	body = append(body, encodeText(string(le.AppendUint32(nil, kind)))...)
	body = le.AppendUint32(body, uint32(s.created.Unix()))       //nolint:gosec // until 2106
	body = le.AppendUint32(body, uint32(s.created.Nanosecond())) //nolint:gosec // below 1e9
	body = le.AppendUint32(body, uint32(len(s.children)))        //nolint:gosec // few
	return "\x08\x08" + encodeText(string(append(body, 0)))
}

// encodeParent encodes the parent as librbd does (cls_rbd_parent of Ceph 16).
func (im *image) encodeParent() string {
	le, parent := binary.LittleEndian, im.parent.image
	body := le.AppendUint64(nil, uint64(parent.pool.id)) //nolint:gosec // positive
	body = append(body, encodeText(parent.namespaceName)+encodeText(parent.id)...)
	body = le.AppendUint64(body, im.parent.id)
	body = le.AppendUint64(append(body, 1), im.overlap)
	return "\x02\x02" + encodeText(string(body))
}

// encodeTrash encodes an image in the trash as librbd does (TrashImageSpec of Ceph 16).
func (im *image) encodeTrash() string {
	source := byte(0) // the user's
	if im.isRemoving {
		source = 3
	}
	body := append([]byte{source}, encodeText(im.name)...)
	body = append(body, make([]byte, 20)...) // times, state
	return "\x02\x01" + encodeText(string(body))
}

// encodeText encodes a text as Ceph does: its length, little-endian, and its bytes.
func encodeText(text string) string {
	return string(binary.LittleEndian.AppendUint32(nil, uint32(len(text)))) + text //nolint:gosec // short
}

func (p *openPool) RemoveOmapKeys(name string, keys ...string) error {
	return p.call("Pool.RemoveOmapKeys", p.pool, func() error {
		o := p.objects()[name]
		if o == nil {
			return unix.ENOENT
		}
		for _, key := range keys {
			delete(o.omap, key)
		}
		return nil
	})
}

// objects returns the objects of the namespace, which exists as soon as an object is in it.
func (p *openPool) objects() map[string]*object {
	n := p.pool.namespaces[p.namespace]
	if n == nil {
		return map[string]*object{}
	}
	return n.objects
}
