package blockdev

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/growvol/growvol/pkg/volume"
)

// maxLayers bounds the walk down; real stacks have three layers.
const maxLayers = 16

// Stack returns the layers from d down to the whole disk, d first: a LUKS
// mapping on a partition gives {dm-0, sda1, sda}. A device without layers is
// its own disk. The error is of kind Precondition when a layer rests on
// several devices (multipath, RAID, a logical volume over two disks) or on
// none: such a layer has no one disk that could be identified or awaited.
func (s *System) Stack(d Device) ([]Device, error) {
	layers := []Device{d}
	for len(layers) <= maxLayers {
		top := layers[len(layers)-1]
		below, ok, err := s.deviceBelow(top)
		if err != nil {
			return nil, err
		}
		if !ok {
			return layers, nil
		}
		layers = append(layers, below)
	}
	return nil, volume.Errorf(volume.KindInternal, "the devices below %s do not end after %d layers", d, maxLayers)
}

// deviceBelow returns the device right below d; ok is false when d is a disk.
func (s *System) deviceBelow(d Device) (dev Device, ok bool, err error) {
	switch d.Kind {
	case KindPartition:
		dev, err = s.diskOf(d)
		return dev, err == nil, err
	case KindCrypt, KindMapper, KindMD:
		slaves, err := s.devicesLinkedIn(filepath.Join(s.sysfsDir(d), "slaves"))
		if err != nil {
			return Device{}, false, volume.Errorf(volume.KindInternal, "read what %s rests on: %w", d, err)
		}
		if len(slaves) != 1 {
			return Device{}, false, volume.Errorf(volume.KindPrecondition, "%s rests on %d devices%s, not on one", d, len(slaves), listNames(slaves)).
				WithRemedy("multipath, RAID and spanned logical volumes cannot be expanded by this driver; use the volume's disk directly")
		}
		return slaves[0], true, nil
	default:
		return Device{}, false, nil
	}
}

// diskOf returns the whole disk of a partition: the parent directory in sysfs.
func (s *System) diskOf(d Device) (Device, error) {
	dir, err := filepath.EvalSymlinks(s.sysfsDir(d))
	if err != nil {
		return Device{}, volume.Errorf(volume.KindInternal, "find the disk of %s: %w", d, err)
	}
	dev, err := s.deviceInDir(filepath.Dir(dir))
	if err != nil {
		return Device{}, volume.Errorf(volume.KindInternal, "find the disk of %s: %w", d, err)
	}
	return dev, nil
}

// Holders returns the devices that rest on d or, for a disk, on one of its
// partitions: mappings, logical volumes, RAID. Mounts are not among them.
func (s *System) Holders(d Device) ([]Device, error) {
	holders, err := s.devicesLinkedIn(filepath.Join(s.sysfsDir(d), "holders"))
	if err != nil {
		return nil, volume.Errorf(volume.KindInternal, "read what rests on %s: %w", d, err)
	}
	parts, err := s.Partitions(d)
	if err != nil {
		return nil, err
	}
	for _, p := range parts {
		more, err := s.devicesLinkedIn(filepath.Join(s.sysfsDir(p), "holders"))
		if err != nil {
			return nil, volume.Errorf(volume.KindInternal, "read what rests on %s: %w", p, err)
		}
		holders = append(holders, more...)
	}
	slices.SortFunc(holders, func(a, b Device) int { return strings.Compare(a.Name, b.Name) })
	return slices.Compact(holders), nil
}

// Partitions returns the partitions of a disk.
func (s *System) Partitions(d Device) ([]Device, error) {
	entries, err := os.ReadDir(s.sysfsDir(d))
	if err != nil {
		return nil, volume.Errorf(volume.KindInternal, "read the partitions of %s: %w", d, err)
	}
	var parts []Device
	for _, e := range entries {
		dir := filepath.Join(s.sysfsDir(d), e.Name())
		if _, err := os.Stat(filepath.Join(dir, "partition")); !e.IsDir() || err != nil {
			continue
		}
		p, err := s.deviceInDir(dir)
		if err != nil {
			return nil, volume.Errorf(volume.KindInternal, "read the partitions of %s: %w", d, err)
		}
		parts = append(parts, p)
	}
	return parts, nil
}

// devicesLinkedIn returns the devices a slaves or holders directory links to, by name.
// The directory itself is missing where the kernel knows no such relation.
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

// deviceInDir returns the device of a sysfs directory by its "dev" file. The error
// wraps volume.ErrGone when the directory, which was listed, is a link that
// leads nowhere: the device has gone.
func (s *System) deviceInDir(dir string) (Device, error) {
	number, err := readLine(filepath.Join(dir, "dev"))
	if info, lstatErr := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) && lstatErr == nil && info.Mode()&fs.ModeSymlink != 0 {
		if _, statErr := os.Stat(dir); errors.Is(statErr, fs.ErrNotExist) {
			err = fmt.Errorf("%w: %w", volume.ErrGone, err)
		}
	}
	if err != nil {
		return Device{}, err
	}
	major, minor, err := parseDeviceNumber(number)
	if err != nil {
		return Device{}, fmt.Errorf("%s: %w", dir, err)
	}
	return s.ByNumber(major, minor)
}

// listNames lists devices for a message: " (sda, sdb)".
func listNames(devices []Device) string {
	if len(devices) == 0 {
		return ""
	}
	list := make([]string, len(devices))
	for i, d := range devices {
		list[i] = d.Name
	}
	return " (" + strings.Join(list, ", ") + ")"
}
