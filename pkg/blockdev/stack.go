package blockdev

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
)

// Stack returns the layers from d down to the whole disk, d first: a LUKS mapping on a
// partition gives {dm-0, sda1, sda}, and a disk gives {sda}.
//
// Kinds: Precondition when a layer rests on several devices (multipath, RAID, a logical
// volume over two disks) or on none, because then no single disk can be identified or
// awaited; Internal, which wraps volume.ErrGone when a device below is gone.
func (s *System) Stack(d Device) ([]Device, error) {
	layers := []Device{d}
	for len(layers) <= maxLayers {
		below, ok, err := s.deviceBelow(layers[len(layers)-1])
		if err != nil {
			return nil, err
		}
		if !ok {
			return layers, nil
		}
		layers = append(layers, below)
	}
	return nil, volume.Errorf(volume.KindInternal, "cannot find the disk of %s: more than %d devices lie below it",
		d, maxLayers)
}

// maxLayers bounds the walk of Stack; a LUKS mapping on a partition has three layers.
const maxLayers = 16

// deviceBelow returns the device directly below d. It reports false for a whole disk.
func (s *System) deviceBelow(d Device) (below Device, ok bool, err error) {
	switch d.Kind {
	case KindPartition:
		below, err = s.diskOf(d)
		return below, err == nil, err
	case KindCrypt, KindMapper, KindMD:
		slaves, err := s.devicesLinkedIn(filepath.Join(s.sysfsDir(d), "slaves"))
		if err != nil {
			return Device{}, false, volume.Errorf(volume.KindInternal, "cannot read what %s rests on: %w", d, err)
		}
		if len(slaves) != 1 {
			return Device{}, false, volume.Errorf(volume.KindPrecondition, "%s rests on %d devices (%s), not on one",
				d, len(slaves), listNames(slaves)).
				WithRemedy("use the volume's disk directly: " +
					"this driver cannot expand multipath, RAID and logical volumes over several disks")
		}
		return slaves[0], true, nil
	default:
		return Device{}, false, nil
	}
}

// diskOf returns the whole disk of a partition, which is its parent directory in sysfs.
func (s *System) diskOf(partition Device) (Device, error) {
	dir, err := filepath.EvalSymlinks(s.sysfsDir(partition))
	if err == nil {
		var disk Device
		if disk, err = s.deviceInDir(filepath.Dir(dir)); err == nil {
			return disk, nil
		}
	}
	return Device{}, volume.Errorf(volume.KindInternal, "cannot find the disk of %s: %w", partition, err)
}

// Holders returns the devices that rest on d or, if d is a disk, on one of its
// partitions: mappings, logical volumes, RAID. Mounts are not devices and not returned.
// The error is of kind Internal.
func (s *System) Holders(d Device) ([]Device, error) {
	parts, err := s.Partitions(d)
	if err != nil {
		return nil, err
	}
	var holders []Device
	for _, below := range append([]Device{d}, parts...) {
		linked, err := s.devicesLinkedIn(filepath.Join(s.sysfsDir(below), "holders"))
		if err != nil {
			return nil, volume.Errorf(volume.KindInternal, "cannot read what rests on %s: %w", below, err)
		}
		holders = append(holders, linked...)
	}
	slices.SortFunc(holders, func(a, b Device) int { return cmp.Compare(a.Name, b.Name) })
	return slices.Compact(holders), nil
}

// Partitions returns the partitions of a disk, without one that is removed during the call.
// The error is of kind Internal.
func (s *System) Partitions(d Device) ([]Device, error) {
	entries, err := os.ReadDir(s.sysfsDir(d))
	if err != nil {
		return nil, volume.Errorf(volume.KindInternal, "cannot read the partitions of %s: %w", d, err)
	}
	var parts []Device
	for _, e := range entries {
		dir := filepath.Join(s.sysfsDir(d), e.Name())
		if _, err := os.Stat(filepath.Join(dir, "partition")); !e.IsDir() || err != nil {
			continue
		}
		p, err := s.deviceInDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, volume.Errorf(volume.KindInternal, "cannot read the partitions of %s: %w", d, err)
		}
		parts = append(parts, p)
	}
	return parts, nil
}

// devicesLinkedIn returns the devices to which the links in a slaves or holders
// directory lead. The kernel makes no such directory for a device that cannot have any.
func (s *System) devicesLinkedIn(dir string) ([]Device, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	devices := make([]Device, 0, len(entries))
	for _, e := range entries {
		d, err := s.deviceInDir(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		devices = append(devices, d)
	}
	return devices, nil
}

// deviceInDir returns the device of a sysfs directory, by its "dev" file. The error
// wraps fs.ErrNotExist when the device has no number, and also volume.ErrGone when it was
// removed after its link was listed: the link's target is missing, or the kernel no longer
// reads the open file.
func (s *System) deviceInDir(dir string) (Device, error) {
	text, err := s.readAttribute(filepath.Join(dir, "dev"))
	if errors.Is(err, unix.ENODEV) || errors.Is(err, fs.ErrNotExist) && isDanglingLink(dir) {
		err = fmt.Errorf("%w: %w", volume.ErrGone, err)
	}
	if err != nil {
		return Device{}, err
	}
	number, err := ParseNumber(text)
	if err != nil {
		return Device{}, fmt.Errorf("%s: %w", dir, err)
	}
	return s.ByNumber(number.Major, number.Minor)
}

// isDanglingLink reports whether path is a symbolic link whose target does not exist.
func isDanglingLink(path string) bool {
	info, err := os.Lstat(path)
	if err != nil || info.Mode()&fs.ModeSymlink == 0 {
		return false
	}
	_, err = os.Stat(path)
	return errors.Is(err, fs.ErrNotExist)
}

// listNames returns the names of devices for a message: "sda, sdb", or "none".
func listNames(devices []Device) string {
	list := make([]string, len(devices))
	for i, d := range devices {
		list[i] = d.Name
	}
	return cmp.Or(strings.Join(list, ", "), "none")
}
