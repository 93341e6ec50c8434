// Package header decodes what librbd keeps of an image in the omap of its header object, so that
// parents and snapshots are read with one operation: opening an image takes eleven, a clone more
// than twenty. The formats are those of Ceph 14 (Nautilus) and later: src/cls/rbd/cls_rbd.h
// (cls_rbd_snap, cls_rbd_parent) and src/cls/rbd/cls_rbd.cc (the keys). ErrFormat is returned for
// others; the caller then opens the image.
package header

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
)

// ErrFormat says that a value has another format.
var ErrFormat = errors.New("unknown format of an image header")

// Directory is the object that has the names of images by their ids, and their ids by their names.
const Directory = "rbd_directory"

// Trash is the object that has the images in the trash, by their ids (TrashKey).
const Trash = "rbd_trash"

// TrashKey is the key of the trash with the image of that id.
func TrashKey(imageID string) string { return "id_" + imageID }

// NameKey is the key of the directory with the name of the image of that id.
func NameKey(imageID string) string { return "id_" + imageID }

// IDKey is the key of the directory with the id of the image of that name.
func IDKey(name string) string { return "name_" + name }

// IDObject is the object with the id of the image of that name.
func IDObject(name string) string { return "rbd_id." + name }

// Object is the header object of an image.
func Object(imageID string) string { return "rbd_header." + imageID }

const (
	parentKey      = "parent"
	snapshotPrefix = "snapshot_"
	clonesPrefix   = "snap_children_"
)

// SnapshotKey is the key of the header with the snapshot of that id.
func SnapshotKey(id uint64) string { return fmt.Sprintf("%s%016x", snapshotPrefix, id) }

// Parent names the parent of a clone by ids.
type Parent struct {
	PoolID     int64
	Namespace  string
	ImageID    string
	SnapshotID uint64
}

// Text decodes the name or the id of an image, a value of the directory.
func Text(value string) (string, error) {
	r := reader{rest: value}
	text := r.text()
	return text, r.err
}

// Trashed is an image in the trash.
type Trashed struct {
	Name string // its former one
	// IsRemoving: a removal has moved it there, not a user.
	IsRemoving bool
}

// ReadTrashed decodes an image in the trash, a value of the trash (src/cls/rbd/cls_rbd_types.h,
// TrashImageSpec).
func ReadTrashed(value string) (Trashed, error) {
	const version, sourceRemoving = 1, 3
	r := reader{rest: value}
	r.begin(version)
	source := r.skip(1)
	return Trashed{IsRemoving: source == string(rune(sourceRemoving)), Name: r.text()}, r.err
}

// Snapshots decodes the snapshots among the values of a header, oldest first.
func Snapshots(values map[string]string) ([]ceph.Snapshot, error) {
	var all []ceph.Snapshot
	for key, value := range values {
		if !strings.HasPrefix(key, snapshotPrefix) {
			continue
		}
		snapshot, err := Snapshot(value)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
		all = append(all, snapshot)
	}
	slices.SortFunc(all, func(a, b ceph.Snapshot) int { return cmp.Compare(a.ID, b.ID) })
	return all, nil
}

// HasClones reports whether the snapshot of that id has clones, from the values of the header. They
// are a list, which begins with their number. Clones of format 1 are not among them.
func HasClones(values map[string]string, id uint64) bool {
	r := reader{rest: values[fmt.Sprintf("%s%016x", clonesPrefix, id)]}
	return r.uint32() > 0
}

// Types of snapshots (src/cls/rbd/cls_rbd_types.h, SnapshotNamespaceType).
const (
	typeUser  = 0
	typeTrash = 2
)

// Snapshot decodes one snapshot.
func Snapshot(value string) (ceph.Snapshot, error) {
	const version = 8
	r := reader{rest: value}
	r.begin(version)
	s := ceph.Snapshot{ID: r.uint64(), Name: r.text(), Size: r.uint64()}
	r.skip(1 + 8) // protection, flags
	r.skip(2)     // versions of the namespace
	namespace := reader{rest: r.text(), err: r.err}
	kind := namespace.uint32()
	s.IsRemoved, s.IsForeign = kind == typeTrash, kind != typeTrash && kind != typeUser
	seconds, nanoseconds := r.uint32(), r.uint32()
	s.Created = time.Unix(int64(seconds), int64(nanoseconds))
	return s, errors.Join(r.err, namespace.err)
}

// ReadParent decodes the parent among the values of a header; false: there is none.
func ReadParent(values map[string]string) (p Parent, found bool, err error) {
	value, found := values[parentKey]
	if !found {
		return Parent{}, false, nil
	}
	const version = 2
	r := reader{rest: value}
	r.begin(version)
	p.PoolID = int64(r.uint64()) //nolint:gosec // it is encoded as a signed number
	p.Namespace, p.ImageID, p.SnapshotID = r.text(), r.text(), r.uint64()
	return p, p.ImageID != "", r.err
}

// reader decodes little-endian numbers and texts. After an error it returns zero values.
type reader struct {
	rest string
	err  error
}

func (r *reader) skip(n int) string {
	if r.err != nil || n < 0 || n > len(r.rest) {
		r.rest, r.err = "", ErrFormat
		return ""
	}
	skipped := r.rest[:n]
	r.rest = r.rest[n:]
	return skipped
}

// begin decodes the header of a structure: its version, and the oldest version that can read it.
// The second must be the expected one: Ceph writes values that older versions can read, too, with
// other fields in between (cls_rbd_snap::decode, struct_compat < 8).
func (r *reader) begin(version byte) {
	versions := r.skip(2)
	if r.err == nil && (versions[0] < version || versions[1] != version) {
		r.err = ErrFormat
	}
	r.rest = r.text()
}

func (r *reader) uint32() uint32 {
	if bytes := r.skip(4); r.err == nil {
		return binary.LittleEndian.Uint32([]byte(bytes))
	}
	return 0
}

func (r *reader) uint64() uint64 {
	if bytes := r.skip(8); r.err == nil {
		return binary.LittleEndian.Uint64([]byte(bytes))
	}
	return 0
}

func (r *reader) text() string { return r.skip(int(r.uint32())) }
