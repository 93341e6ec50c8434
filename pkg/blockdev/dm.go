package blockdev

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
)

const (
	sectorSize = 512 // device-mapper and sysfs count in these, whatever the disk does

	// From <linux/dm-ioctl.h>, where x/sys has none.
	dmBufferFull = 1 << 8  // DM_BUFFER_FULL_FLAG
	dmSecureData = 1 << 15 // DM_SECURE_DATA_FLAG: the kernel wipes its copy

	dmBuffer = 16 << 10 // a crypt table is a few hundred bytes
)

// cryptTable is the part of a dm-crypt mapping's table that sizes hang on.
type cryptTable struct {
	length  volume.Size // of the mapping
	offset  volume.Size // where the mapping's data starts on the device below
	sector  volume.Size // encryption sector: the mapping is a multiple of it
	keyring bool        // the volume key is in the kernel's keyring, not in the table
}

// cryptTable asks device-mapper for the live table of a mapping (what
// "dmsetup table" shows). The answer may contain the volume key; it is wiped.
func (s *System) cryptTable(d Device) (cryptTable, error) {
	buf := make([]byte, dmBuffer)
	defer clear(buf)
	head := dmHeader(buf, d, unix.DM_STATUS_TABLE_FLAG|dmSecureData)
	if err := s.dm(unix.DM_TABLE_STATUS, buf); err != nil {
		return cryptTable{}, volume.Errorf(volume.Internal, "read the device-mapper table of %s: %w", d, err)
	}
	if head.Flags&dmBufferFull != 0 {
		return cryptTable{}, volume.Errorf(volume.Internal, "the device-mapper table of %s is longer than %d bytes", d, dmBuffer)
	}
	if head.Target_count != 1 {
		return cryptTable{}, volume.Errorf(volume.Precondition, "%s consists of %d segments, not of one", d, head.Target_count)
	}
	t, err := parseCryptTarget(buf[min(int(head.Data_start), len(buf)):])
	if err != nil {
		return cryptTable{}, volume.Errorf(volume.Internal, "read the device-mapper table of %s: %w", d, err)
	}
	return t, nil
}

// resume makes a suspended mapping run again.
func (s *System) resume(d Device) error {
	buf := make([]byte, dmBuffer)
	dmHeader(buf, d, 0) // DM_DEV_SUSPEND without the suspend flag resumes
	return s.dm(unix.DM_DEV_SUSPEND, buf)
}

// dmHeader fills in the struct dm_ioctl at the start of buf.
func dmHeader(buf []byte, d Device, flags uint32) *unix.DmIoctl {
	head := (*unix.DmIoctl)(unsafe.Pointer(&buf[0]))
	head.Version = [3]uint32{4, 0, 0}
	head.Data_size = uint32(len(buf))
	head.Data_start = uint32(unsafe.Sizeof(*head))
	head.Flags = flags
	head.Dev = unix.Mkdev(d.Major, d.Minor)
	return head
}

func (s *System) dm(request uint, buf []byte) error {
	control, err := os.OpenFile(filepath.Join(s.dev, "mapper", "control"), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer control.Close() //nolint:errcheck // holds no data
	return s.kernel.DM(control, request, buf)
}

// parseCryptTarget reads one struct dm_target_spec and the parameters behind
// it: "cipher key iv_offset device offset [count option...]" (kernel
// documentation, device-mapper/dm-crypt).
func parseCryptTarget(data []byte) (cryptTable, error) {
	const specSize = int(unsafe.Sizeof(unix.DmTargetSpec{}))
	if len(data) < specSize {
		return cryptTable{}, errors.New("the answer is cut off")
	}
	length := binary.NativeEndian.Uint64(data[8:]) // dm_target_spec.length
	kind, _, _ := bytes.Cut(data[24:specSize], []byte{0})
	params, _, terminated := bytes.Cut(data[specSize:], []byte{0})
	if string(kind) != "crypt" || !terminated {
		return cryptTable{}, fmt.Errorf("it is a %q target, not \"crypt\"", kind)
	}
	fields := bytes.Fields(params)
	const minFields = 5
	if len(fields) < minFields {
		return cryptTable{}, fmt.Errorf("%d parameters instead of %d or more", len(fields), minFields)
	}
	offset, err := strconv.ParseInt(string(fields[4]), 10, 54)
	if err != nil || offset < 0 || length >= 1<<54 {
		// The numbers alone: the fields before them hold the key.
		return cryptTable{}, fmt.Errorf("offset %q or length %d is not a number of sectors", fields[4], length)
	}
	t := cryptTable{
		length: volume.Size(length) * sectorSize, offset: volume.Size(offset) * sectorSize,
		sector: sectorSize, keyring: fields[1][0] == ':',
	}
	for _, f := range fields[minFields:] {
		if v, ok := bytes.CutPrefix(f, []byte("sector_size:")); ok {
			n, err := strconv.ParseUint(string(v), 10, 20)
			if err != nil || n == 0 {
				return cryptTable{}, fmt.Errorf("sector size %q", v)
			}
			t.sector = volume.Size(n)
		}
	}
	return t, nil
}
