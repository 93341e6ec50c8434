// Package blockdev reads and drives Linux block devices through sysfs and
// ioctls: what a device is, what lies below and above it, how large it is,
// and how it learns that it has grown. It trusts no link under /dev/disk and
// no device node whose number it has not compared, and it takes no size for
// granted that it did not read from the device itself. It executes no program.
package blockdev

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/growvol/growvol/pkg/operation"

	"github.com/growvol/growvol/pkg/volume"
)

// Kind tells what drives a block device, and so how it is identified and how
// it learns its size.
type Kind uint8

// The kinds of device.
const (
	KindOther     Kind = iota // nothing this package knows more of
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

// String returns the kind's name as used in messages.
func (k Kind) String() string {
	names := [...]string{"other", "scsi", "nvme", "virtio-blk", "loop", "rbd", "crypt", "device-mapper", "partition", "md"}
	if int(k) < len(names) {
		return names[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Device is one block device of the running kernel.
type Device struct {
	Major, Minor uint32
	Name         string // the kernel's name, as in /sys/class/block: "sda1", "dm-0"
	Path         string // a device node, compared with the number at every use
	Kind         Kind
}

// Number identifies the device; see DeviceNumber.
func (d Device) Number() DeviceNumber { return DeviceNumber{Major: d.Major, Minor: d.Minor} }

// String names the device for messages: "/dev/sda (scsi, 8:0)".
func (d Device) String() string {
	return fmt.Sprintf("%s (%s, %s)", d.Path, d.Kind, d.Number())
}

// System is the block layer of the machine. Make it with New.
type System struct {
	sysfs  string // "/sys"
	dev    string // "/dev"
	kernel kernel
	calls  operation.Locks // calls that may hang with a device; see bounded
}

// New returns the block layer as seen through /sys and /dev.
func New() *System {
	return &System{sysfs: "/sys", dev: "/dev", kernel: linuxKernel{}}
}

// ByNumber finds the device with these numbers. The error wraps volume.ErrGone
// when the kernel has no such device.
func (s *System) ByNumber(major, minor uint32) (Device, error) {
	number := fmt.Sprintf("%d:%d", major, minor)
	dir, err := filepath.EvalSymlinks(filepath.Join(s.sysfs, "dev", "block", number))
	if err != nil {
		return Device{}, s.lookupError(number, err)
	}
	d := Device{Major: major, Minor: minor, Name: filepath.Base(dir)}
	d.Path = filepath.Join(s.dev, s.nodeName(dir, d.Name))
	d.Kind = s.readKind(dir, d)
	return d, nil
}

// lookupError explains why sysfs has no entry for a device number. Only a
// missing entry in a sysfs that is there proves that the device is gone.
func (s *System) lookupError(number string, err error) error {
	if !errors.Is(err, fs.ErrNotExist) {
		return volume.Errorf(volume.KindInternal, "look for the block device %s: %w", number, err)
	}
	if entries, dirErr := os.ReadDir(filepath.Join(s.sysfs, "dev", "block")); dirErr != nil || len(entries) == 0 {
		return volume.Errorf(volume.KindInternal, "look for the block device %s: sysfs shows no block device at all: %w", number, errors.Join(dirErr, err)).
			WithRemedy("mount the host's /sys (sysfs) into this container")
	}
	return volume.Errorf(volume.KindInternal, "the kernel has no block device %s: %w", number, fmt.Errorf("%w: %w", volume.ErrGone, err)).
		WithRemedy("the device was removed; check that the volume is still attached to this node")
}

// ByPath finds the device behind a path, which must be a block special file
// or a symbolic link to one. The error wraps volume.ErrGone when the path is
// the node of a device that the kernel no longer has, or when neither the
// node nor a device of its name exists.
func (s *System) ByPath(path string) (Device, error) {
	number, err := s.kernel.Stat(path)
	if err != nil {
		if s.isNameFree(path, err) {
			err = fmt.Errorf("%w: %w", volume.ErrGone, err)
		}
		return Device{}, volume.Errorf(volume.KindInternal, "identify the block device %s: %w", path, err)
	}
	d, err := s.ByNumber(number.Major, number.Minor)
	if err != nil {
		return Device{}, fmt.Errorf("%s is a stale device node: %w", path, err)
	}
	// A container may see the device under the given path only.
	if number, err := s.kernel.Stat(d.Path); err != nil || number != d.Number() {
		d.Path = path
	}
	return d, nil
}

// isNameFree reports whether err says that the node at path is missing, and
// the kernel has no device of that name. It is true of the nodes that the
// kernel makes and removes itself. A missing link, or a missing node under
// another name, which udev or a person made, proves nothing.
func (s *System) isNameFree(path string, err error) bool {
	name := filepath.Base(path)
	if !errors.Is(err, fs.ErrNotExist) || filepath.Dir(path) != s.dev || !isKernelName(name) {
		return false
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return false // a link that leads nowhere
	}
	devices, err := os.ReadDir(filepath.Join(s.sysfs, "class", "block"))
	if err != nil || len(devices) == 0 {
		return false
	}
	return !slices.ContainsFunc(devices, func(e fs.DirEntry) bool { return e.Name() == name })
}

// isKernelName reports whether the kernel names disks, or partitions of them,
// like this: sda, vdb1, nvme0n1p1, loop7, rbd0, dm-0.
func isKernelName(name string) bool {
	for _, prefix := range []string{"sd", "vd", "xvd", "nvme", "loop", "rbd", "dm-"} {
		rest, ok := strings.CutPrefix(name, prefix)
		if !ok || rest == "" {
			continue
		}
		letters := strings.TrimRight(rest, "0123456789")
		switch prefix {
		case "sd", "vd", "xvd":
			if letters != "" && strings.Trim(letters, "abcdefghijklmnopqrstuvwxyz") == "" {
				return true
			}
		default:
			if strings.Trim(rest, "0123456789np") == "" {
				return true
			}
		}
	}
	return false
}

// sysfsDir returns the sysfs directory of the device.
func (s *System) sysfsDir(d Device) string {
	return filepath.Join(s.sysfs, "dev", "block", d.Number().String())
}

// nodeName returns the device's name below /dev, which is not always the
// kernel's name ("cciss!c0d0").
func (s *System) nodeName(dir, name string) string {
	data, err := os.ReadFile(filepath.Join(dir, "uevent"))
	if err == nil {
		for line := range strings.Lines(string(data)) {
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
		if uuid, _ := readLine(filepath.Join(dir, "dm", "uuid")); strings.HasPrefix(uuid, "CRYPT-") {
			return KindCrypt
		}
		return KindMapper
	case has("md"):
		return KindMD
	case d.Major == loopMajor:
		return KindLoop
	}
	subsystem, err := filepath.EvalSymlinks(filepath.Join(dir, "device", "subsystem"))
	if err != nil {
		subsystem = ""
	}
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
		if _, err := os.Stat(filepath.Join(s.sysfs, "bus", "rbd", "devices", id)); err == nil {
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

// parseDeviceNumber reads "major:minor".
func parseDeviceNumber(text string) (major, minor uint32, err error) {
	a, b, _ := strings.Cut(text, ":")
	ma, err1 := strconv.ParseUint(a, 10, 32)
	mi, err2 := strconv.ParseUint(b, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return 0, 0, fmt.Errorf("device number %q: %w", text, err)
	}
	return uint32(ma), uint32(mi), nil
}

// readLine reads a sysfs attribute without the white space around it.
func readLine(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(data)), nil
}
