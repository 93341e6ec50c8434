package rbd

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
)

// This file reads names of images and snapshots by their ids, in one operation each: opening an
// image takes eleven. The names are values of omap keys (Ceph, src/cls/rbd/cls_rbd.cc: dir_key_for_id,
// key_from_snap_id; src/cls/rbd/cls_rbd.h: cls_rbd_snap). A name can change after it was read: the
// caller checks by ids what it has done with the name.

// imageNameOf returns the name of the image of that id. ENOENT: there is none, or it is in the trash.
func imageNameOf(pool ceph.Pool, imageID string) (string, error) {
	key := "id_" + imageID
	values, err := pool.OmapValues("rbd_directory", key)
	if err != nil {
		return "", fmt.Errorf("cannot read the name of image id %s: %w", imageID, err)
	}
	value, ok := values[key]
	if !ok {
		return "", fmt.Errorf("no image has the id %s: %w", imageID, unix.ENOENT)
	}
	name, _, ok := decodeText(value)
	if !ok {
		return "", fmt.Errorf("the name of image id %s cannot be decoded: %q", imageID, value)
	}
	return name, nil
}

// snapshotNameOf returns the name of a snapshot. ENOENT: there is no such image or snapshot.
func snapshotNameOf(pool ceph.Pool, imageID string, snapshotID uint64) (string, error) {
	key := fmt.Sprintf("snapshot_%016x", snapshotID)
	values, err := pool.OmapValues("rbd_header."+imageID, key)
	if err != nil {
		return "", fmt.Errorf("cannot read snapshot %d of image id %s: %w", snapshotID, imageID, err)
	}
	value, ok := values[key]
	if !ok {
		return "", fmt.Errorf("image id %s has no snapshot %d: %w", imageID, snapshotID, unix.ENOENT)
	}
	// Version, compatible version, length (u8, u8, u32); then the id (u64), the name, …
	const header, idLength = 6, 8
	if len(value) < header+idLength || binary.LittleEndian.Uint64([]byte(value[header:])) != snapshotID {
		return "", fmt.Errorf("snapshot %d of image id %s cannot be decoded", snapshotID, imageID)
	}
	name, _, ok := decodeText(value[header+idLength:])
	if !ok {
		return "", fmt.Errorf("the name of snapshot %d of image id %s cannot be decoded", snapshotID, imageID)
	}
	return name, nil
}

// decodeText decodes a text: its length (u32, little-endian) and its bytes. It returns the rest.
func decodeText(value string) (text, rest string, ok bool) {
	const prefix = 4
	if len(value) < prefix {
		return "", "", false
	}
	length := int(binary.LittleEndian.Uint32([]byte(value)))
	if value = value[prefix:]; length > len(value) {
		return "", "", false
	}
	return value[:length], value[length:], true
}

// isMissing reports whether Ceph has said that an object or an image does not exist.
func isMissing(err error) bool { return errors.Is(err, unix.ENOENT) }
