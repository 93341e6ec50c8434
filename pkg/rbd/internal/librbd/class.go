//go:build ceph

package librbd

import (
	"encoding/binary"
	"math"
	"time"

	"github.com/ceph/go-ceph/rados"
	"golang.org/x/sys/unix"
)

// This file calls the methods of the object class rbd, which run in the storage daemons and which
// librbd is made of (Ceph, src/cls/rbd/cls_rbd.cc). They read and change an image by one operation,
// where opening it costs 11 to 13. Numbers are little-endian, texts have their length in 4 bytes.

// noSnapshot stands for the image itself (CEPH_NOSNAP).
const noSnapshot = math.MaxUint64 - 1

// flagObjectMapInvalid is RBD_FLAG_OBJECT_MAP_INVALID.
const flagObjectMapInvalid = 1

// metadataPage is the number of metadata keys that are read by one operation.
const metadataPage = 1024

const classRBD = "rbd"

func headerObject(imageID string) string { return "rbd_header." + imageID }

func appendText(b []byte, text string) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(len(text))) //nolint:gosec // librados refuses requests of 4 GiB
	return append(b, text...)
}

// decoder reads an answer. err is set if it is too short.
type decoder struct {
	rest []byte
	err  error
}

func (d *decoder) bytes(n uint64) []byte {
	if n > uint64(len(d.rest)) {
		d.rest, d.err = nil, wrap(unix.EBADMSG, "an answer of Ceph is too short")
		return make([]byte, min(n, 8))
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) uint32() uint32 { return binary.LittleEndian.Uint32(d.bytes(4)) }
func (d *decoder) uint64() uint64 { return binary.LittleEndian.Uint64(d.bytes(8)) }
func (d *decoder) text() string {
	content := d.bytes(uint64(d.uint32()))
	if d.err != nil {
		return ""
	}
	return string(content)
}

// method is a call of a method of the class that reads.
type method struct {
	name string
	in   []byte
}

// execute calls methods by one operation and returns what each answered. ENOENT: no such object.
func execute(io *rados.IOContext, object string, methods ...method) ([]*decoder, error) {
	op := rados.CreateReadOp()
	defer op.Release()
	steps := make([]*rados.ReadOpExecStep, 0, len(methods))
	for _, m := range methods {
		steps = append(steps, op.Exec(classRBD, m.name, m.in))
	}
	if err := op.Operate(io, object, rados.OperationNoFlag); err != nil {
		return nil, err
	}
	answers := make([]*decoder, 0, len(methods))
	for _, step := range steps {
		out, err := step.Bytes()
		if err != nil {
			return nil, err
		}
		answers = append(answers, &decoder{rest: out})
	}
	return answers, nil
}

// ImageID implements ceph.Pool.
func (p *pool) ImageID(name string) (string, error) {
	answers, err := execute(p.io, "rbd_id."+name, method{name: "get_id"})
	if err != nil {
		return "", wrap(err, "find image %s", p.path(name))
	}
	return answers[0].text(), wrap(answers[0].err, "find image %s", p.path(name))
}

// imageName returns the name of the image of that id; ENOENT if it is in the trash.
func (p *pool) imageName(id string) (string, error) {
	answers, err := execute(p.io, "rbd_directory", method{"dir_get_name", appendText(nil, id)})
	if err != nil {
		return "", wrap(err, "find the name of image %s", id)
	}
	return answers[0].text(), wrap(answers[0].err, "find the name of image %s", id)
}

// properties are what readHeader reads of an image.
type properties struct {
	size       uint64 // bytes
	objectSize uint64 // bytes
	flags      uint64
	features   uint64
	created    time.Time
	dataPool   int64  // negative: the pool itself
	version    uint64 // of the object; readHeader does not read it
}

// readHeader reads the header of an image as it is now, by one operation. ENOENT. io is p.io, or
// one of the caller's own.
func (p *pool) readHeader(io *rados.IOContext, id string) (properties, error) {
	snapshot := binary.LittleEndian.AppendUint64(nil, noSnapshot)
	answers, err := execute(io, headerObject(id),
		method{"get_size", snapshot},
		method{"get_flags", snapshot},
		method{"get_features", append(snapshot[:8:8], 1)}, // 1: to read the image
		method{"get_create_timestamp", nil},
		method{"get_data_pool", nil})
	if err != nil {
		return properties{}, err
	}
	size, flags, features, created, dataPool := answers[0], answers[1], answers[2], answers[3], answers[4]
	h := properties{
		objectSize: 1 << size.bytes(1)[0], size: size.uint64(), flags: flags.uint64(), features: features.uint64(),
		created:  time.Unix(int64(created.uint32()), int64(created.uint32())),
		dataPool: int64(dataPool.uint64()), //nolint:gosec // -1 is written as the largest number
	}
	for _, answer := range answers {
		if answer.err != nil {
			return properties{}, answer.err
		}
	}
	return h, nil
}

// Metadata implements ceph.Pool. More than 1,024 keys need more operations.
func (p *pool) Metadata(imageID string) (map[string]string, error) {
	values := make(map[string]string)
	for last := ""; ; {
		in := binary.LittleEndian.AppendUint64(appendText(nil, last), metadataPage)
		answers, err := execute(p.io, headerObject(imageID), method{"metadata_list", in})
		if err != nil {
			return nil, wrap(err, "read the metadata of image %s", imageID)
		}
		answer := answers[0]
		count := answer.uint32()
		for range count {
			key := answer.text()
			values[key], last = answer.text(), max(last, key)
			if answer.err != nil {
				return nil, wrap(answer.err, "read the metadata of image %s", imageID)
			}
		}
		if count < metadataPage {
			return values, wrap(answer.err, "read the metadata of image %s", imageID)
		}
	}
}

// SetMetadata implements ceph.Pool.
func (p *pool) SetMetadata(imageID, key, value string) error {
	in := binary.LittleEndian.AppendUint32(nil, 1) // a map with one key
	in = appendText(appendText(in, key), value)
	return wrap(p.change(headerObject(imageID), "metadata_set", in), "write metadata %s of image %s", key, imageID)
}

// RemoveMetadata implements ceph.Pool.
func (p *pool) RemoveMetadata(imageID, key string) error {
	return wrap(p.change(headerObject(imageID), "metadata_remove", appendText(nil, key)),
		"remove metadata %s of image %s", key, imageID)
}

// change calls a method of the class that writes. It never makes the object. ENOENT.
func (p *pool) change(object, name string, in []byte) error {
	op := rados.CreateWriteOp()
	defer op.Release()
	op.AssertExists()
	op.Exec(classRBD, name, in)
	return op.Operate(p.failing, object, rados.OperationNoFlag)
}
