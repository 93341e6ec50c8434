package rbdcsi

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// This file holds the handles of volumes and snapshots. They are stable: PersistentVolumes and
// VolumeSnapshotContents store them.

// MaxHandleLength is the maximum length of a handle in bytes (CSI v1.13, "Size Limits").
const MaxHandleLength = 128

// imageIDPrefix begins the last part of a snapshot handle that names the image by its id.
const imageIDPrefix = "id:"

// Location is a pool of a cluster, or a RADOS namespace of that pool.
type Location struct {
	Cluster   string // id in the configuration
	Pool      string
	Namespace string // empty: the default namespace
}

// String returns cluster/pool or cluster/pool/namespace.
func (l Location) String() string {
	if l.Namespace == "" {
		return l.Cluster + "/" + l.Pool
	}
	return l.Cluster + "/" + l.Pool + "/" + l.Namespace
}

// VolumeHandle names an image: cluster/pool/image or cluster/pool/namespace/image. With a
// snapshot, cluster/pool/image@snapshot, it is a static read-only volume.
type VolumeHandle struct {
	Location
	Image    string
	Snapshot string // empty: the image itself
}

// String returns the handle as PersistentVolumes store it.
func (h VolumeHandle) String() string {
	if h.Snapshot != "" {
		return h.Location.String() + "/" + h.Image + "@" + h.Snapshot
	}
	return h.Location.String() + "/" + h.Image
}

// ParseVolumeHandle parses the handle of a volume. It fails for every other text, also for the
// handles of ceph-csi (ParseCephCSIHandle).
func ParseVolumeHandle(text string) (VolumeHandle, error) {
	location, last, err := split(text)
	if err != nil {
		return VolumeHandle{}, err
	}
	image, snapshot, hasSnapshot := strings.Cut(last, "@")
	if image == "" || hasSnapshot && snapshot == "" || strings.HasPrefix(image, imageIDPrefix) {
		return VolumeHandle{}, notHandleError(text)
	}
	return VolumeHandle{Location: location, Image: image, Snapshot: snapshot}, nil
}

// SnapshotHandle names a snapshot by ids, which stay the same when the image is renamed:
// cluster/pool[/namespace]/id:IMAGE@SNAPSHOT, such as a/rbd/id:10226b8b4567@4. A static snapshot
// is named cluster/pool[/namespace]/image@name.
type SnapshotHandle struct {
	Location
	ImageID    string
	SnapshotID uint64 // librbd's number; set together with ImageID
	Image      string // of a static snapshot
	Snapshot   string // of a static snapshot
}

// String returns the handle as VolumeSnapshotContents store it.
func (h SnapshotHandle) String() string {
	if h.ImageID == "" {
		return h.Location.String() + "/" + h.Image + "@" + h.Snapshot
	}
	return fmt.Sprintf("%s/%s%s@%d", h.Location, imageIDPrefix, h.ImageID, h.SnapshotID)
}

// ParseSnapshotHandle parses the handle of a snapshot.
func ParseSnapshotHandle(text string) (SnapshotHandle, error) {
	location, last, err := split(text)
	if err != nil {
		return SnapshotHandle{}, err
	}
	image, snapshot, _ := strings.Cut(last, "@")
	if image == "" || snapshot == "" {
		return SnapshotHandle{}, notHandleError(text)
	}
	id, hasID := strings.CutPrefix(image, imageIDPrefix)
	if !hasID {
		return SnapshotHandle{Location: location, Image: image, Snapshot: snapshot}, nil
	}
	number, err := strconv.ParseUint(snapshot, 10, 64)
	if id == "" || err != nil {
		return SnapshotHandle{}, notHandleError(text)
	}
	return SnapshotHandle{Location: location, ImageID: id, SnapshotID: number}, nil
}

// split parses cluster/pool[/namespace]/last.
func split(text string) (location Location, last string, err error) {
	parts := strings.Split(text, "/")
	for _, part := range parts {
		if part == "" {
			return Location{}, "", notHandleError(text)
		}
	}
	switch len(parts) {
	case 3:
		return Location{Cluster: parts[0], Pool: parts[1]}, parts[2], nil
	case 4:
		return Location{Cluster: parts[0], Pool: parts[1], Namespace: parts[2]}, parts[3], nil
	}
	return Location{}, "", notHandleError(text)
}

func notHandleError(text string) error {
	return fmt.Errorf("%q is not cluster/pool[/namespace]/image", text)
}

// CephCSIHandle is the handle of a volume or snapshot that ceph-csi made
// (ceph-csi, internal/util/volid.go): version, length of the cluster id, cluster id, pool id, UUID.
type CephCSIHandle struct {
	Cluster string
	PoolID  int64
	UUID    string
}

const (
	cephCSIPattern = `^0001-([0-9a-f]{4})-(.+)-([0-9a-f]{16})-` +
		`([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})$`
)

// ParseCephCSIHandle parses a handle of ceph-csi; ok is false for every other text.
func ParseCephCSIHandle(text string) (h CephCSIHandle, ok bool) {
	match := regexp.MustCompile(cephCSIPattern).FindStringSubmatch(text)
	if match == nil {
		return CephCSIHandle{}, false
	}
	length, err := strconv.ParseUint(match[1], 16, 16)
	if err != nil || int(length) != len(match[2]) {
		return CephCSIHandle{}, false
	}
	pool, err := strconv.ParseInt(match[3], 16, 64)
	if err != nil {
		return CephCSIHandle{}, false
	}
	return CephCSIHandle{Cluster: match[2], PoolID: pool, UUID: match[4]}, true
}
