package blockdev

import (
	"cmp"
	"encoding/binary"
	"errors"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/growvol/growvol/pkg/volume"
)

// Serial returns the identity of a whole disk (the last of Stack) as the kernel shows
// it, or "" when the kernel shows none:
//
//   - virtio-blk and NVMe: the serial, of which at most 20 characters exist;
//   - SCSI: the whole unit serial number (VPD page 0x80 of SPC-5);
//   - krbd: "pool/image", or "pool/namespace/image";
//   - loop: the path of the backing file. Use it for messages only, because the file
//     may have been renamed or replaced.
//
// Compare it with a volume id by SerialMatches. The error is of kind Internal.
func (s *System) Serial(d Device) (string, error) {
	dir := s.sysfsDir(d)
	switch d.Kind {
	case KindVirtioBlk:
		return s.readIdentity(d, filepath.Join(dir, "serial"))
	case KindNVMe:
		return s.readIdentity(d, filepath.Join(dir, "device", "serial"))
	case KindSCSI:
		page, err := s.readFile(filepath.Join(dir, "device", "vpd_pg80"))
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

// SerialMatches reports whether a disk that shows this serial can be the volume of this
// id: the serial is the id, or the first 20 characters of it. It reports false for an
// empty serial and for a shorter prefix. The first 20 characters of a UUID contain 68
// random bits, so an accidental match is practically impossible; an id that was
// crafted to share the prefix would match.
func SerialMatches(visible, id string) bool {
	visible = strings.TrimSpace(visible)
	if visible == "" || id == "" {
		return false
	}
	return visible == id || len(visible) == MaxShownSerial && strings.HasPrefix(id, visible)
}

// MaxShownSerial is the number of characters of a serial that virtio-blk
// (VIRTIO_BLK_ID_BYTES), NVMe and ATA can carry; hypervisors cut off the rest.
const MaxShownSerial = 20

// rbdImage returns the pool, namespace and image of a krbd device.
func (s *System) rbdImage(d Device) (string, error) {
	id, ok := rbdID(d.Name)
	if !ok {
		return "", nil
	}
	pool, poolErr := s.readIdentity(d, filepath.Join(s.rbdDir(id), "pool"))
	namespace, namespaceErr := s.readIdentity(d, filepath.Join(s.rbdDir(id), "pool_ns"))
	name, nameErr := s.readIdentity(d, filepath.Join(s.rbdDir(id), "name"))
	switch err := cmp.Or(poolErr, namespaceErr, nameErr); {
	case err != nil || pool == "" || name == "":
		return "", err
	case namespace != "":
		return pool + "/" + namespace + "/" + name, nil
	default:
		return pool + "/" + name, nil
	}
}

// readIdentity reads a sysfs attribute that identifies d. It returns "" for one that is
// missing or not printable.
func (s *System) readIdentity(d Device, path string) (string, error) {
	text, err := s.readAttribute(path)
	if err != nil {
		return "", ignoreMissing(d, err)
	}
	text = strings.Trim(text, "\x00 ")
	if !isPrintable(text) {
		return "", nil
	}
	return text, nil
}

// ignoreMissing returns nil if err says that a file does not exist, and otherwise err
// with its message.
func ignoreMissing(d Device, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return volume.Errorf(volume.KindInternal, "cannot read the serial of %s: %w", d, err)
}

// parseVPD80 reads the unit serial number from VPD page 0x80 (SPC-5): byte 1 is the page
// code, bytes 2 and 3 are the length, and the serial follows. It reports false for a
// page that is cut off: a part of a serial could match a wrong id.
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

// isPrintable reports whether text is valid UTF-8 without control characters.
func isPrintable(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\uFFFD' })
}
