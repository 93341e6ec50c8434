//go:build ceph

package librbd

import (
	"github.com/ceph/go-ceph/rados"
)

// This file holds the methods on RADOS objects. Each is one operation, except that OmapValues
// without keys needs one for each 1,000 of them.

// CreateObject implements ceph.Pool.
func (p *pool) CreateObject(name string, content []byte) error {
	return wrap(create(p.failing, name, content, rados.OperationNoFlag), "create object %s", p.path(name))
}

// ForceObject implements ceph.Pool.
func (p *pool) ForceObject(name string, content []byte) error {
	return wrap(p.force(name, content), "create object %s", p.path(name))
}

// force makes an object also in a full pool.
func (p *pool) force(name string, content []byte) error {
	return toErrno(create(p.io, name, content, rados.OperationFullForce))
}

func create(io *rados.IOContext, name string, content []byte, flags rados.OperationFlags) error {
	op := rados.CreateWriteOp()
	defer op.Release()
	op.Create(rados.CreateExclusive)
	if len(content) > 0 {
		op.WriteFull(content)
	}
	return op.Operate(io, name, flags)
}

// ReadObject implements ceph.Pool.
func (p *pool) ReadObject(name string) ([]byte, error) {
	for size := 64 << 10; ; size *= 4 {
		content := make([]byte, size)
		n, err := p.io.Read(name, content, 0)
		if err != nil {
			return nil, wrap(err, "read object %s", p.path(name))
		}
		if n < size {
			return content[:n], nil
		}
	}
}

// RemoveObject implements ceph.Pool.
func (p *pool) RemoveObject(name string) error {
	return wrap(p.failing.Delete(name), "remove object %s", p.path(name))
}

// OmapValues implements ceph.Pool.
func (p *pool) OmapValues(object string, keys ...string) (map[string]string, error) {
	values := make(map[string]string)
	if len(keys) > 0 {
		op := rados.CreateReadOp()
		defer op.Release()
		step := op.GetOmapValuesByKeys(keys)
		_, err := p.readPairs(op, object, step.Next, values)
		return values, err
	}
	// GetAllOmapValues would read once more after the last key.
	for last, isMore := "", true; isMore; {
		op := rados.CreateReadOp()
		step := op.GetOmapValues(last, "", maxOmapKeys)
		var err error
		if last, err = p.readPairs(op, object, step.Next, values); err == nil {
			isMore = step.More()
		}
		op.Release()
		if err != nil {
			return nil, err
		}
	}
	return values, nil
}

// maxOmapKeys is the number of keys that an OSD returns at most (osd_max_omap_entries_per_request).
const maxOmapKeys = 1000

// readPairs runs an operation that reads keys, and adds them to values. It returns the last key.
func (p *pool) readPairs(
	op *rados.ReadOp, object string, next func() (*rados.OmapKeyValue, error), values map[string]string,
) (last string, err error) {
	if err := op.Operate(p.io, object, rados.OperationNoFlag); err != nil {
		return "", wrap(err, "read keys of object %s", p.path(object))
	}
	for {
		pair, err := next()
		if err != nil {
			return "", wrap(err, "read keys of object %s", p.path(object))
		}
		if pair == nil {
			return last, nil
		}
		last = pair.Key
		values[last] = string(pair.Value)
	}
}

// RemoveOmapKeys implements ceph.Pool.
func (p *pool) RemoveOmapKeys(object string, keys ...string) error {
	if len(keys) == 0 {
		return nil
	}
	op := rados.CreateWriteOp()
	defer op.Release()
	op.AssertExists()
	op.RmOmapKeys(keys)
	return wrap(op.Operate(p.failing, object, rados.OperationNoFlag), "remove keys of object %s", p.path(object))
}
