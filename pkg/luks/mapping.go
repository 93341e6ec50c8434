package luks

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
)

// Mapping is an open dm-crypt mapping of a volume.
type Mapping struct {
	// Device is the mapping itself: what is mounted or published.
	Device blockdev.Device
	// Disk is the device right below it. If the kernel has that device no more,
	// DiskGone is true and Disk has nothing but its number.
	Disk     blockdev.Device
	DiskGone bool
	Name     string      // as in /dev/mapper
	UUID     string      // dm UUID: "CRYPT-LUKS2-<header UUID without dashes>-<name>"
	Offset   volume.Size // where its data begin on the disk
	Size     volume.Size
	ReadOnly bool

	sector volume.Size
}

// maxVerbatim is the longest volume id that stands in a mapping's name as it
// is. The dm UUID contains the name too and has at most 128 characters, of
// which cryptsetup takes 45; what is longer it would cut off.
const maxVerbatim = 64

// MappingName returns the name of the mapping of a volume. Two volumes never
// have the same: an id that is short and plain stands in it as it is, behind
// "growvol-"; any other is replaced by its SHA-256, behind "growvol.".
func MappingName(id string) string {
	plain := len(id) <= maxVerbatim && id != "" && !strings.ContainsFunc(id, func(r rune) bool {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		return !letter && !strings.ContainsRune("-_.", r) // libdevmapper rewrites others
	})
	if plain {
		return "growvol-" + id
	}
	sum := sha256.Sum256([]byte(id))
	return "growvol." + hex.EncodeToString(sum[:])
}

// dmUUID is the dm UUID that cryptsetup gives to a mapping.
func dmUUID(headerUUID, name string) string {
	return uuidPrefix + strings.ReplaceAll(headerUUID, "-", "") + "-" + name
}

const uuidPrefix = "CRYPT-LUKS2-"

// Find returns the open mapping of a volume, without a passphrase. ok is false
// if there is none; a mapping that a killed cryptsetup has only begun to make
// counts as none. The caller must still verify that Mapping.Disk is the disk of
// the volume.
//
// A mapping that a killed resize has left suspended is resumed: whatever
// touches it would hang. Kinds: Precondition (a device of that name exists, but
// not as a LUKS2 mapping of this driver), Internal.
func (s *System) Find(ctx context.Context, id string) (m Mapping, ok bool, err error) {
	return s.find(ctx, MappingName(id))
}

func (s *System) find(ctx context.Context, name string) (Mapping, bool, error) {
	st, ok, err := s.mapper.status(name)
	if err != nil {
		return Mapping{}, false, mapperError("find the mapping", name, err)
	}
	if !ok {
		return Mapping{}, false, nil
	}
	if err := checkOwn(st); err != nil {
		return Mapping{}, false, err
	}
	if !st.active {
		return Mapping{}, false, nil
	}
	if err := s.resume(ctx, st); err != nil {
		return Mapping{}, false, err
	}
	m, err := s.describe(st)
	return m, err == nil, err
}

// checkOwn refuses what has a name of this driver's and was not made by it.
func checkOwn(st dmStatus) error {
	if strings.HasPrefix(st.uuid, uuidPrefix) && strings.HasSuffix(st.uuid, "-"+st.name) {
		return nil
	}
	return volume.Errorf(volume.KindPrecondition, "the device-mapper device %s (%d:%d) has the UUID %q, so it is not a LUKS2 mapping of this driver; it is left alone",
		st.name, st.major, st.minor, st.uuid).WithRemedy("find out who made it (dmsetup info " + st.name + ") and remove it")
}

// describe reads what the mapping rests on, and how.
func (s *System) describe(st dmStatus) (Mapping, error) {
	table, err := s.mapper.table(st.name)
	if errors.Is(err, errNotOneCrypt) {
		return Mapping{}, volume.Errorf(volume.KindPrecondition, "the device-mapper device %s (%d:%d) is not a LUKS2 mapping of this driver; it is left alone: %w",
			st.name, st.major, st.minor, err).WithRemedy("find out who made it (dmsetup table " + st.name + ") and remove it")
	}
	if err != nil {
		return Mapping{}, mapperError("read the table of", st.name, err)
	}
	device, err := s.devices.ByNumber(st.major, st.minor)
	if err != nil {
		return Mapping{}, err
	}
	m := Mapping{
		Device: device, Name: st.name, UUID: st.uuid, Offset: table.offset, Size: table.length, ReadOnly: st.readOnly,
		sector: table.sector,
	}
	m.Disk, err = s.devices.ByNumber(table.major, table.minor)
	if isGone(err) {
		m.Disk, m.DiskGone = blockdev.Device{Major: table.major, Minor: table.minor}, true
		err = nil
	}
	return m, err
}

// isGone reports whether an error of Devices.ByNumber proves that the kernel
// has no such device.
func isGone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, volume.ErrGone)
}

// resume makes a mapping run that was left suspended.
func (s *System) resume(ctx context.Context, st dmStatus) error {
	if !st.suspended {
		return nil
	}
	if err := s.mapper.resume(st.name); err != nil {
		return volume.Errorf(volume.KindInternal, "the mapping %s is suspended, so that whatever uses it hangs, and it cannot be resumed: %w", st.name, err).
			WithRemedy("run: dmsetup resume " + st.name)
	}
	s.log.WarnContext(ctx, "resumed a mapping that was left suspended", "mapping", st.name)
	return nil
}

// mapperError is the error for a device mapper that does not do its work.
func mapperError(what, name string, err error) error {
	remedy := "check the kernel log of this node"
	if errors.Is(err, fs.ErrNotExist) {
		remedy = "mount the host's /dev into the container of the node plugin, and load the kernel modules dm-mod and dm-crypt"
	}
	return volume.Errorf(volume.KindInternal, "%s %s: %w", what, name, err).WithRemedy(remedy)
}

// disk names the device below a mapping for a message.
func (m Mapping) disk() string {
	if m.DiskGone {
		return fmt.Sprintf("%d:%d, which the kernel has no more", m.Disk.Major, m.Disk.Minor)
	}
	return m.Disk.String()
}
