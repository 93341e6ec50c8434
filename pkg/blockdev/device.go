package blockdev

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// Device is a block device of the running kernel, as ByPath and ByNumber find it.
type Device struct {
	Major, Minor uint32
	Name         string // the kernel's name, as in /sys/class/block: "sda1", "dm-0"
	Path         string // a device node; its number is compared at every open
	Kind         Kind
}

// Number returns the number of the device.
func (d Device) Number() DeviceNumber { return DeviceNumber{Major: d.Major, Minor: d.Minor} }

// String describes the device for messages: "/dev/sda (scsi, 8:0)".
func (d Device) String() string {
	return fmt.Sprintf("%s (%s, %s)", d.Path, d.Kind, d.Number())
}

// DeviceNumber identifies a block device, or the anonymous device of a filesystem
// that has none of its own (btrfs, tmpfs).
type DeviceNumber struct{ Major, Minor uint32 }

// String returns "7:3", the form of /sys/dev/block and mountinfo.
func (n DeviceNumber) String() string { return fmt.Sprintf("%d:%d", n.Major, n.Minor) }

// ParseNumber reads "major:minor". The error contains the text.
func ParseNumber(text string) (DeviceNumber, error) {
	majorText, minorText, _ := strings.Cut(text, ":")
	major, majorErr := strconv.ParseUint(majorText, 10, 32)
	minor, minorErr := strconv.ParseUint(minorText, 10, 32)
	if err := cmp.Or(majorErr, minorErr); err != nil {
		return DeviceNumber{}, fmt.Errorf("%q is not a device number: %w", text, err)
	}
	return DeviceNumber{Major: uint32(major), Minor: uint32(minor)}, nil
}

// Kind is the driver family of a block device. It decides how the device is
// identified and how it learns its size.
type Kind uint8

// The kinds of device.
const (
	KindOther     Kind = iota // none of the others
	KindSCSI                  // sd*: SCSI, virtio-scsi, iSCSI, FC
	KindNVMe                  // nvme*n*
	KindVirtioBlk             // vd*
	KindLoop                  // loop*
	KindRBD                   // rbd*: Ceph's kernel client
	KindCrypt                 // dm-*: made by cryptsetup (dm uuid CRYPT-*)
	KindMapper                // dm-*: any other device-mapper device
	KindPartition             // part of another device
	KindMD                    // md*: software RAID
)

// String returns the name of the kind for messages.
func (k Kind) String() string {
	names := [...]string{
		"other", "scsi", "nvme", "virtio-blk", "loop", "rbd", "crypt", "device-mapper", "partition", "md",
	}
	if int(k) < len(names) {
		return names[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// IsPluggable reports whether a hypervisor plugs in disks of this kind.
func (k Kind) IsPluggable() bool { return k == KindVirtioBlk || k == KindSCSI || k == KindNVMe }

// System is the block layer of the machine; New returns one. It is safe for concurrent use.
type System struct {
	sysfs     string // "/sys"
	dev       string // "/dev"
	kernel    kernel
	mountinfo string          // "/proc/self/mountinfo"
	proc      string          // "/proc"
	calls     operation.Locks // held by calls that may hang, by call and device number; see awaitCall
}

// New returns the block layer that /sys and /dev show.
func New() *System {
	return &System{
		sysfs: "/sys", dev: "/dev", kernel: linuxKernel{}, mountinfo: "/proc/self/mountinfo", proc: "/proc",
	}
}

// remedySysfs is the next step when sysfs cannot be read.
const remedySysfs = "mount the host's /sys (sysfs) into this container"

// ByNumber returns the device with this number. The error is of kind Internal; it wraps
// volume.ErrGone when the kernel has no such device.
func (s *System) ByNumber(major, minor uint32) (Device, error) {
	d := Device{Major: major, Minor: minor}
	dir, err := filepath.EvalSymlinks(s.sysfsDir(d))
	if err != nil {
		return Device{}, s.lookupError(d.Number(), err)
	}
	d.Name = filepath.Base(dir)
	d.Path = filepath.Join(s.dev, s.nodeName(dir, d.Name))
	d.Kind = s.readKind(dir, d)
	return d, nil
}

// lookupError is the error for a device number that sysfs does not have. Only a sysfs
// that has other devices proves that this one is gone.
func (s *System) lookupError(number DeviceNumber, err error) error {
	if !errors.Is(err, fs.ErrNotExist) {
		return volume.Errorf(volume.KindInternal, "cannot look up the block device %s: %w", number, err)
	}
	entries, dirErr := os.ReadDir(filepath.Join(s.sysfs, "dev", "block"))
	if dirErr != nil || len(entries) == 0 {
		return volume.Errorf(volume.KindInternal, "cannot look up the block device %s: sysfs shows no block devices: %w",
			number, cmp.Or(dirErr, err)).WithRemedy(remedySysfs)
	}
	err = fmt.Errorf("%w: %w", volume.ErrGone, err)
	return volume.Errorf(volume.KindInternal, "the kernel has no block device %s: %w", number, err).
		WithRemedy("check that the volume is still attached to this node")
}

// ByPath returns the device behind a path, which must be a block special file or a
// symbolic link to one. The error is of kind Internal. It wraps volume.ErrGone when the
// path is the node of a device that the kernel no longer has, or when neither the node
// nor a device of its name exists.
func (s *System) ByPath(path string) (Device, error) {
	number, err := s.kernel.Stat(path)
	if err != nil {
		if s.isDeviceGone(path, err) {
			err = fmt.Errorf("%w: %w", volume.ErrGone, err)
		}
		return Device{}, volume.Errorf(volume.KindInternal, "cannot identify the block device %s: %w", path, err)
	}
	d, err := s.ByNumber(number.Major, number.Minor)
	if err != nil {
		return Device{}, fmt.Errorf("cannot identify the device behind the node %s: %w", path, err)
	}
	// A container may have no node for the device but the given one.
	if number, err := s.kernel.Stat(d.Path); err != nil || number != d.Number() {
		d.Path = path
	}
	return d, nil
}

// isDeviceGone reports whether err says that the node at path is missing, and the kernel
// has no device of that name. It reports false for a path that the kernel does not make
// itself: the absence of a symbolic link, or of a node that udev or a person named,
// proves nothing about the device.
func (s *System) isDeviceGone(path string, err error) bool {
	name := filepath.Base(path)
	if !errors.Is(err, fs.ErrNotExist) || filepath.Dir(path) != s.dev || !isKernelName(name) {
		return false
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return false // a symbolic link whose target is missing
	}
	devices, err := os.ReadDir(filepath.Join(s.sysfs, "class", "block"))
	if err != nil || len(devices) == 0 {
		return false
	}
	return !slices.ContainsFunc(devices, func(e fs.DirEntry) bool { return e.Name() == name })
}

// isKernelName reports whether the kernel gives such names to disks or partitions:
// sda, vdb1, nvme0n1p1, loop7, rbd0, dm-0.
func isKernelName(name string) bool {
	return regexp.MustCompile(`^((sd|vd|xvd)[a-z]+[0-9]*|(nvme|loop|rbd|dm-)[0-9np]+)$`).MatchString(name)
}

// sysfsDir returns the sysfs directory of the device, a symbolic link.
func (s *System) sysfsDir(d Device) string {
	return filepath.Join(s.sysfs, "dev", "block", d.Number().String())
}

// nodeName returns the name of the device's node below /dev, which differs from the
// kernel's name where that has a "!" ("cciss!c0d0").
func (s *System) nodeName(dir, name string) string {
	text, err := s.readAttribute(filepath.Join(dir, "uevent"))
	if err == nil {
		for line := range strings.Lines(text) {
			if v, ok := strings.CutPrefix(strings.TrimSpace(line), "DEVNAME="); ok && filepath.IsLocal(v) {
				return v
			}
		}
	}
	return strings.ReplaceAll(name, "!", "/")
}

// loopMajor is LOOP_MAJOR of <linux/major.h>.
const loopMajor = 7

// readKind reads the device's kind from its sysfs directory.
func (s *System) readKind(dir string, d Device) Kind {
	has := func(name string) bool {
		_, err := os.Stat(filepath.Join(dir, name))
		return err == nil
	}
	switch {
	case has("partition"):
		return KindPartition
	case has("dm"):
		if uuid, _ := s.readAttribute(filepath.Join(dir, "dm", "uuid")); strings.HasPrefix(uuid, "CRYPT-") {
			return KindCrypt
		}
		return KindMapper
	case has("md"):
		return KindMD
	case d.Major == loopMajor:
		return KindLoop
	}
	// A device without a subsystem gets the kind KindOther.
	subsystem, _ := filepath.EvalSymlinks(filepath.Join(dir, "device", "subsystem"))
	switch filepath.Base(subsystem) {
	case "scsi":
		return KindSCSI
	case "nvme", "nvme-subsystem":
		return KindNVMe
	case "virtio":
		return KindVirtioBlk
	case "rbd":
		return KindRBD
	}
	// Old kernels do not link an rbd disk to its bus device.
	if id, ok := rbdID(d.Name); ok {
		if _, err := os.Stat(s.rbdDir(id)); err == nil {
			return KindRBD
		}
	}
	return KindOther
}

// rbdID returns N of "rbdN", the name of the device on the rbd bus.
func rbdID(name string) (string, bool) {
	id, ok := strings.CutPrefix(name, "rbd")
	if _, err := strconv.ParseUint(id, 10, 31); !ok || err != nil {
		return "", false
	}
	return id, true
}

// rbdDir returns the directory of a device on the rbd bus.
func (s *System) rbdDir(id string) string {
	return filepath.Join(s.sysfs, "bus", "rbd", "devices", id)
}

// readAttribute reads a sysfs attribute without the white space around it; see readFile.
func (s *System) readAttribute(path string) (string, error) {
	data, err := s.readFile(path)
	return strings.TrimSpace(string(data)), err
}

// readFile reads a file of sysfs. The error wraps fs.ErrNotExist also when the device was
// removed after the file was opened: the kernel then answers ENODEV (kernfs_seq_start).
func (s *System) readFile(path string) ([]byte, error) {
	data, err := s.kernel.ReadFile(path)
	if errors.Is(err, unix.ENODEV) {
		err = fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	return data, err
}
