package luks

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
)

// Sizes in the ioctls of device mapper (<linux/dm-ioctl.h>).
const (
	sectorSize = 512 // bytes; the unit of device mapper, whatever the disk's sector size

	dmBufferSize = 16 << 10 // bytes; a crypt table has a few hundred
)

// deviceMapper contains the requests of System to the kernel's device mapper.
type deviceMapper interface {
	// isAvailable reports whether the kernel has device mapper.
	isAvailable() bool
	// status finds a mapping by its name. ok is false if there is none.
	status(name string) (st dmStatus, ok bool, err error)
	// statusOf finds a mapping by its number.
	statusOf(major, minor uint32) (st dmStatus, ok bool, err error)
	// table returns the live table of a mapping.
	table(name string) (cryptTable, error)
	// resume resumes a suspended mapping.
	resume(name string) error
	// remove removes the mapping with this dm UUID. It returns EBUSY if the mapping is open.
	remove(uuid string) error
}

// dmStatus is the state of a mapping.
type dmStatus struct {
	name, uuid   string
	major, minor uint32
	openCount    int
	hasTable     bool // false: the mapping was created, but never loaded
	readOnly     bool
	suspended    bool
}

// cryptTable is the part of the table of a dm-crypt mapping that this package needs.
type cryptTable struct {
	length       volume.Size // of the mapping
	offset       volume.Size // of the data on the device below
	sector       volume.Size // encryption sector, which divides length
	major, minor uint32      // of the device below
	keyring      bool        // the volume key is in the kernel's keyring, not in the table
}

// errNotOneCrypt is wrapped by errors of table for a mapping that is not a single dm-crypt
// segment.
var errNotOneCrypt = errors.New("it is not one dm-crypt segment")

// linuxMapper is the device mapper of the running kernel.
type linuxMapper struct {
	control string // "/dev/mapper/control"
	class   string // the control device in sysfs; it exists if the kernel has device mapper
	blocks  string // the block devices in sysfs: "/sys/class/block"
}

func (l linuxMapper) isAvailable() bool {
	_, err := os.Stat(l.class)
	return !errors.Is(err, fs.ErrNotExist)
}

func (l linuxMapper) status(name string) (dmStatus, bool, error) {
	return l.find(byName(name))
}

func (l linuxMapper) statusOf(major, minor uint32) (dmStatus, bool, error) {
	return l.find(func(head *unix.DmIoctl) { head.Dev = unix.Mkdev(major, minor) })
}

func (l linuxMapper) find(ref mappingRef) (dmStatus, bool, error) {
	head, _, err := l.request(unix.DM_DEV_STATUS, ref, 0)
	switch {
	case errors.Is(err, unix.ENXIO): // no such mapping
		return dmStatus{}, false, nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission), errors.Is(err, unix.ENODEV):
		// This container cannot reach the device mapper. That proves the absence of the
		// mapping only if the kernel has no device mapper, or if sysfs shows no such mapping.
		if !l.isAvailable() || l.isAbsent(cString(head.Name[:])) {
			return dmStatus{}, false, nil
		}
	}
	if err != nil {
		return dmStatus{}, false, err
	}
	return dmStatus{
		name: cString(head.Name[:]), uuid: cString(head.Uuid[:]), major: unix.Major(head.Dev), minor: unix.Minor(head.Dev),
		openCount: int(head.Open_count), hasTable: head.Flags&unix.DM_ACTIVE_PRESENT_FLAG != 0,
		readOnly: head.Flags&unix.DM_READONLY_FLAG != 0, suspended: head.Flags&unix.DM_SUSPEND_FLAG != 0,
	}, true, nil
}

// isAbsent reports whether sysfs proves that no mapping has this name or, for an empty name,
// that there is no mapping.
func (l linuxMapper) isAbsent(name string) bool {
	blocks, err := os.ReadDir(l.blocks)
	if err != nil {
		return false
	}
	for _, b := range blocks {
		if !strings.HasPrefix(b.Name(), "dm-") {
			continue
		}
		is, err := os.ReadFile(filepath.Join(l.blocks, b.Name(), "dm", "name"))
		if err != nil || name == "" || strings.TrimSpace(string(is)) == name {
			return false
		}
	}
	return true
}

// table reads what "dmsetup table" shows. The answer can contain the volume key, so table
// clears it afterwards.
func (l linuxMapper) table(name string) (cryptTable, error) {
	head, answer, err := l.request(unix.DM_TABLE_STATUS, byName(name), unix.DM_STATUS_TABLE_FLAG|unix.DM_SECURE_DATA_FLAG)
	defer clear(answer)
	switch {
	case err != nil:
		return cryptTable{}, err
	case head.Flags&unix.DM_BUFFER_FULL_FLAG != 0:
		return cryptTable{}, fmt.Errorf("it is longer than %d bytes", dmBufferSize)
	case head.Target_count != 1:
		return cryptTable{}, fmt.Errorf("%w: it has %d segments", errNotOneCrypt, head.Target_count)
	}
	return parseCryptTarget(answer[min(int(head.Data_start), len(answer)):])
}

func (l linuxMapper) resume(name string) error {
	_, _, err := l.request(unix.DM_DEV_SUSPEND, byName(name), 0) // without the suspend flag it resumes
	return err
}

func (l linuxMapper) remove(uuid string) error {
	_, _, err := l.request(unix.DM_DEV_REMOVE, func(head *unix.DmIoctl) { copy(head.Uuid[:len(head.Uuid)-1], uuid) }, 0)
	return err
}

// mappingRef sets in a header which mapping the request is for.
type mappingRef func(*unix.DmIoctl)

func byName(name string) mappingRef {
	return func(head *unix.DmIoctl) { copy(head.Name[:len(head.Name)-1], name) }
}

// request sends one request to device mapper. It returns the buffer with the answer, which
// begins with head, a struct dm_ioctl, also after an error.
func (l linuxMapper) request(code uint, ref mappingRef, flags uint32) (head *unix.DmIoctl, answer []byte, err error) {
	answer = make([]byte, dmBufferSize)
	head = (*unix.DmIoctl)(unsafe.Pointer(&answer[0]))
	head.Version = [3]uint32{4, 0, 0}
	head.Data_size = dmBufferSize
	head.Data_start = uint32(unsafe.Sizeof(*head))
	head.Flags = flags
	ref(head)
	control, err := os.OpenFile(l.control, os.O_RDWR, 0)
	if err != nil {
		return head, answer, err
	}
	defer closeQuietly(control)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, control.Fd(), uintptr(code), uintptr(unsafe.Pointer(head)))
	if errno != 0 {
		err = os.NewSyscallError("ioctl "+control.Name(), errno)
	}
	return head, answer, err
}

// parseCryptTarget reads one struct dm_target_spec and the parameters after it: "cipher key
// iv_offset device offset [count option...]" (kernel documentation, device-mapper/dm-crypt).
func parseCryptTarget(data []byte) (cryptTable, error) {
	const specSize = int(unsafe.Sizeof(unix.DmTargetSpec{}))
	if len(data) < specSize {
		return cryptTable{}, errors.New("the answer is cut off")
	}
	length := binary.NativeEndian.Uint64(data[8:])        // dm_target_spec.length
	kind, _, _ := bytes.Cut(data[24:specSize], []byte{0}) // dm_target_spec.target_type
	params, _, terminated := bytes.Cut(data[specSize:], []byte{0})
	if string(kind) != "crypt" || !terminated {
		return cryptTable{}, fmt.Errorf("%w: it is a %q target", errNotOneCrypt, kind)
	}
	fields := bytes.Fields(params)
	const minFields = 5
	if len(fields) < minFields {
		return cryptTable{}, fmt.Errorf("%d parameters instead of %d or more", len(fields), minFields)
	}
	offset, err := strconv.ParseInt(string(fields[4]), 10, 54)
	if err != nil || offset < 0 || length >= 1<<54 {
		// The message must not contain the fields before the numbers: one is the key.
		return cryptTable{}, fmt.Errorf("offset %q or length %d is not a number of sectors", fields[4], length)
	}
	t := cryptTable{
		length: volume.Size(length) * sectorSize, offset: volume.Size(offset) * sectorSize,
		sector: sectorSize, keyring: fields[1][0] == ':',
	}
	below, err := blockdev.ParseNumber(string(fields[3]))
	if err != nil {
		// The message must not contain the text: in a table of another form it might be the key.
		return cryptTable{}, errors.New("the device below it is not given as major:minor")
	}
	t.major, t.minor = below.Major, below.Minor
	for _, f := range fields[minFields:] {
		if v, ok := bytes.CutPrefix(f, []byte("sector_size:")); ok {
			n, err := strconv.ParseUint(string(v), 10, 20)
			if err != nil || n == 0 {
				return cryptTable{}, fmt.Errorf("%q is not a sector size", v)
			}
			t.sector = volume.Size(n)
		}
	}
	return t, nil
}
