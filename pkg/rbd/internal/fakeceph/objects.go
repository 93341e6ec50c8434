package fakeceph

import (
	"maps"
	"slices"

	"golang.org/x/sys/unix"
)

// This file holds the calls on RADOS objects.

func (p *openPool) CreateObject(name string, content []byte) error {
	return p.call("Pool.CreateObject", p.pool, func() error {
		objects := p.objects()
		if objects[name] != nil {
			return unix.EEXIST
		}
		objects[name] = &object{content: slices.Clone(content), omap: make(map[string]string)}
		return nil
	})
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
		o := p.objects()[name]
		if o == nil {
			return unix.ENOENT
		}
		out = maps.Clone(o.omap)
		if len(keys) > 0 {
			maps.DeleteFunc(out, func(key, _ string) bool { return !slices.Contains(keys, key) })
		}
		return nil
	})
	return out, err
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
