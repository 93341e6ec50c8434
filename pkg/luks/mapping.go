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
	// Device is the mapping itself, which is mounted or published.
	Device blockdev.Device
	// Disk is the device directly below the mapping. If DiskGone, the kernel no longer has
	// that device, and Disk contains only its number.
	Disk     blockdev.Device
	DiskGone bool
	Name     string      // as in /dev/mapper
	UUID     string      // dm UUID: "CRYPT-LUKS2-<header UUID without dashes>-<name>"
	Offset   volume.Size // of its data on the disk
	Size     volume.Size
	ReadOnly bool

	sector volume.Size
}

// maxPlainID is the maximum length of a volume id that a mapping's name contains unchanged.
// The dm UUID contains the name too; it has at most 128 characters, of which cryptsetup
// takes 45, and cryptsetup cuts off what is longer.
const maxPlainID = 64

// MappingName returns the name of the mapping of a volume: "growvol-" and the id if that is
// short and plain, or "growvol." and the SHA-256 of the id. Two volumes never have the same
// name.
func MappingName(id string) string {
	plain := len(id) <= maxPlainID && id != "" && !strings.ContainsFunc(id, func(r rune) bool {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		return !letter && !strings.ContainsRune("-_.", r) // libdevmapper escapes other characters
	})
	if plain {
		return "growvol-" + id
	}
	sum := sha256.Sum256([]byte(id))
	return "growvol." + hex.EncodeToString(sum[:])
}

// dmUUID returns the dm UUID that cryptsetup gives to a mapping.
func dmUUID(headerUUID, name string) string {
	return uuidPrefix + strings.ReplaceAll(headerUUID, "-", "") + "-" + name
}

const uuidPrefix = "CRYPT-LUKS2-"

// Find returns the open mapping of a volume. ok is false if there is none; a mapping without
// a table, which a killed cryptsetup has left, counts as none. The caller must still verify
// that Mapping.Disk is the disk of the volume.
//
// Find resumes a mapping that a killed resize has left suspended, because every access to it
// would hang. Kinds: Precondition (a device of that name exists, but it is no LUKS2 mapping
// of this driver), Internal.
func (s *System) Find(ctx context.Context, id string) (m Mapping, ok bool, err error) {
	name := MappingName(id)
	st, ok, err := s.mapper.status(name)
	if err != nil {
		return Mapping{}, false, mapperError("cannot find the mapping", name, err)
	}
	if ok {
		err = checkOwn(st)
	}
	if err != nil || !ok || !st.hasTable {
		return Mapping{}, false, err
	}
	if err := s.resume(ctx, st); err != nil {
		return Mapping{}, false, err
	}
	m, err = s.describe(st)
	return m, err == nil, err
}

// checkOwn returns an error for a device that has a name of this driver, but that this
// driver did not make.
func checkOwn(st dmStatus) error {
	if strings.HasPrefix(st.uuid, uuidPrefix) && strings.HasSuffix(st.uuid, "-"+st.name) {
		return nil
	}
	return volume.Errorf(volume.KindPrecondition,
		"the device-mapper device %s (%d:%d) was not changed: its UUID %q is not that of a LUKS2 mapping of this driver",
		st.name, st.major, st.minor, st.uuid).
		WithRemedy(fmt.Sprintf("find out what made it: dmsetup info %s; then remove it: dmsetup remove %s", st.name, st.name))
}

// describe reads the table of the mapping and finds its device and its disk.
func (s *System) describe(st dmStatus) (Mapping, error) {
	table, err := s.mapper.table(st.name)
	if errors.Is(err, errNotOneCrypt) {
		return Mapping{}, volume.Errorf(volume.KindPrecondition,
			"the device-mapper device %s (%d:%d) was not changed: it is not a LUKS2 mapping of this driver: %w",
			st.name, st.major, st.minor, err).
			WithRemedy(fmt.Sprintf("find out what made it: dmsetup table %s; then remove it: dmsetup remove %s",
				st.name, st.name))
	}
	if err != nil {
		return Mapping{}, mapperError("cannot read the table of", st.name, err)
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
	if errors.Is(err, volume.ErrGone) {
		m.Disk, m.DiskGone = blockdev.Device{Major: table.major, Minor: table.minor}, true
		err = nil
	}
	return m, err
}

// resume resumes a suspended mapping.
func (s *System) resume(ctx context.Context, st dmStatus) error {
	if !st.suspended {
		return nil
	}
	if err := s.mapper.resume(st.name); err != nil {
		return volume.Errorf(volume.KindInternal,
			"cannot resume the mapping %s, which is suspended, so that every access to it hangs: %w", st.name, err).
			WithRemedy("run on this node: dmsetup resume " + st.name)
	}
	s.log.WarnContext(ctx, "resumed a suspended mapping", "mapping", st.name)
	return nil
}

// mapperError is the error for a failed request to the device mapper.
func mapperError(what, name string, err error) error {
	remedy := "check the kernel log of this node"
	if errors.Is(err, fs.ErrNotExist) {
		remedy = "mount the host's /dev into the container of the node plugin, " +
			"and load the kernel modules on the node: modprobe -a dm-mod dm-crypt"
	}
	return volume.Errorf(volume.KindInternal, "%s %s: %w", what, name, err).WithRemedy(remedy)
}

// diskText describes the device below a mapping in a message.
func (m Mapping) diskText() string {
	if m.DiskGone {
		return fmt.Sprintf("%d:%d, which no longer exists", m.Disk.Major, m.Disk.Minor)
	}
	return m.Disk.String()
}
