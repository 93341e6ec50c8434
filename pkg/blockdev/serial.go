package blockdev

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"

	"github.com/growvol/growvol/pkg/volume"
)

// maxShownSerial is how many characters of a serial virtio-blk
// (VIRTIO_BLK_ID_BYTES), NVMe and ATA can carry; hypervisors cut the rest.
const maxShownSerial = 20

// Serial returns what the kernel shows of the identity of a whole disk (the
// last of Stack), or "" when it shows none:
//
//   - virtio-blk, NVMe: the serial, of which at most 20 characters exist;
//   - SCSI: the unit serial number (VPD page 0x80, SPC-5), whole;
//   - krbd: "pool/image", or "pool/namespace/image";
//   - loop: the path of the backing file, as the kernel shows it. It is fit for
//     messages only: the file may have been renamed or replaced.
//
// Compare it with a volume id by SerialMatches.
func (s *System) Serial(d Device) (string, error) {
	dir := s.sysfsDir(d)
	switch d.Kind {
	case KindVirtioBlk:
		return s.readIdentity(d, filepath.Join(dir, "serial"))
	case KindNVMe:
		return s.readIdentity(d, filepath.Join(dir, "device", "serial"))
	case KindSCSI:
		page, err := os.ReadFile(filepath.Join(dir, "device", "vpd_pg80"))
		if err != nil {
			return "", ignoreMissing(d, err)
		}
		serial, _ := parseVPD80(page)
		return serial, nil
	case KindLoop:
		return s.readIdentity(d, filepath.Join(dir, "loop", "backing_file"))
	case KindRBD:
		return s.rbdImage(d)
	default:
		return "", nil
	}
}

// SerialMatches tells whether a disk that shows this serial can be the volume
// of this id: they are equal, or the serial is the first 20 characters of the
// id. Nothing shorter counts as a prefix, and an empty serial matches nothing:
// it is no evidence at all. Of a UUID, 20 characters leave 68 bits random
// bits compared: a match by accident is out of the question, one by intent
// (an id crafted to share the prefix) is not.
func SerialMatches(visible, id string) bool {
	visible = strings.TrimSpace(visible)
	if visible == "" || id == "" {
		return false
	}
	return visible == id || len(visible) == maxShownSerial && strings.HasPrefix(id, visible)
}

// rbdImage returns the pool and image of a krbd device.
func (s *System) rbdImage(d Device) (string, error) {
	id, ok := rbdID(d.Name)
	if !ok {
		return "", nil
	}
	dir := filepath.Join(s.sysfs, "bus", "rbd", "devices", id)
	pool, err := s.readIdentity(d, filepath.Join(dir, "pool"))
	if err != nil {
		return "", err
	}
	name, err := s.readIdentity(d, filepath.Join(dir, "name"))
	if err != nil || pool == "" || name == "" {
		return "", err
	}
	namespace, err := s.readIdentity(d, filepath.Join(dir, "pool_ns"))
	if err != nil {
		return "", err
	}
	if namespace != "" {
		pool += "/" + namespace
	}
	return pool + "/" + name, nil
}

// readIdentity reads an identifying attribute; a missing one reads as "".
func (*System) readIdentity(d Device, path string) (string, error) {
	text, err := readLine(path)
	if err != nil {
		return "", ignoreMissing(d, err)
	}
	text = strings.Trim(text, "\x00 ")
	if !isPrintable(text) {
		return "", nil
	}
	return text, nil
}

func ignoreMissing(d Device, err error) error {
	if os.IsNotExist(err) {
		return nil
	}
	return volume.Errorf(volume.KindInternal, "read the serial of %s: %w", d, err)
}

// parseVPD80 reads the unit serial number from VPD page 0x80: byte 1 is the
// page code, bytes 2 and 3 the length, the serial follows. A page that
// contradicts itself gives nothing: part of a serial could match a wrong id.
func parseVPD80(page []byte) (string, bool) {
	const header, code = 4, 0x80
	if len(page) < header || page[1] != code {
		return "", false
	}
	length := int(binary.BigEndian.Uint16(page[2:]))
	if length > len(page)-header {
		return "", false
	}
	serial := strings.Trim(string(page[header:header+length]), "\x00 ")
	if serial == "" || !isPrintable(serial) {
		return "", false
	}
	return serial, true
}

// isPrintable tells whether text has no control characters and is ASCII or
// valid UTF-8; anything else is a device's garbage.
func isPrintable(text string) bool {
	for _, r := range text {
		if r < ' ' || r == 0x7f || r == '\uFFFD' {
			return false
		}
	}
	return true
}
