// Package losetup finds loop devices by their backing file and gives files a loop
// device, as losetup(8) does, through sysfs and the ioctls of <linux/loop.h>. The
// controller's half of the loop backend only finds devices, to leave volumes alone that
// a node uses; the node's half does the rest.
package losetup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// System is the machine's loop devices. New returns one; tests replace the fields.
type System struct {
	Sysfs  string // "/sys"
	Dev    string // "/dev"
	Kernel Kernel
}

// New returns the System of the running machine.
func New() *System { return &System{Sysfs: "/sys", Dev: "/dev", Kernel: Linux{}} }

// Device is a loop device that has a backing file.
type Device struct {
	Path     string // "/dev/loop3"
	ReadOnly bool
	file     fileID
}

// fileID is a file's identity on this machine.
type fileID struct{ dev, inode uint64 }

// HasFile reports whether a status shows the backing file by which d was found.
func (d Device) HasFile(status *unix.LoopInfo64) bool {
	return d.file == fileID{dev: status.Device, inode: status.Inode}
}

// Paths joins the paths of devices, for messages.
func Paths(devices []Device) string {
	paths := make([]string, len(devices))
	for i, d := range devices {
		paths[i] = d.Path
	}
	return strings.Join(paths, ", ")
}

// Find returns the loop devices whose backing file is this very file, by device and
// inode number. Where a device cannot be opened (a controller without /dev), Find
// compares the path that the kernel shows: an id in it cannot be another volume's.
func (s *System) Find(file string) ([]Device, error) {
	var st unix.Stat_t
	if err := unix.Stat(file, &st); err != nil {
		return nil, &os.PathError{Op: "stat", Path: file, Err: err}
	}
	return s.find(func(backing string, status *unix.LoopInfo64) bool {
		if status == nil {
			return strings.HasSuffix(backing, string(filepath.Separator)+uniqueTail(file))
		}
		return IsFile(status, &st)
	})
}

// uniqueTail returns the part of a data file's path that no other file shares:
// volumes/<id>/data.
func uniqueTail(file string) string {
	dir := filepath.Dir(file)
	return filepath.Join(filepath.Base(filepath.Dir(dir)), filepath.Base(dir), filepath.Base(file))
}

// IsFile reports whether a status shows the file of st.
func IsFile(status *unix.LoopInfo64, st *unix.Stat_t) bool {
	return status.Device == uint64(st.Dev) && status.Inode == st.Ino //nolint:unconvert // narrower on some architectures
}

// FindDeleted returns the loop devices whose backing file was deleted from one of these
// paths.
func (s *System) FindDeleted(files ...string) ([]Device, error) {
	deleted := DeletedPaths(files...)
	return s.find(func(backing string, _ *unix.LoopInfo64) bool { return slices.Contains(deleted, backing) })
}

// DeletedPaths returns how the kernel shows backing files that were deleted from these
// paths, with and without symbolic links in the path.
func DeletedPaths(files ...string) []string {
	var deleted []string
	for _, file := range files {
		deleted = append(deleted, file+" (deleted)")
		// The object's own directory is deleted too; the directories above it are not.
		above := filepath.Dir(filepath.Dir(file))
		if resolved, err := filepath.EvalSymlinks(above); err == nil {
			deleted = append(deleted, resolved+strings.TrimPrefix(file, above)+" (deleted)")
		}
	}
	return deleted
}

// find returns the devices that match accepts. match gets the path of the backing file
// as the kernel shows it, and the device's status, or nil if the device cannot be opened.
func (s *System) find(match func(backing string, status *unix.LoopInfo64) bool) ([]Device, error) {
	files, err := filepath.Glob(filepath.Join(s.Sysfs, "class", "block", "loop*", "loop", "backing_file"))
	if err != nil {
		return nil, err
	}
	var found []Device
	for _, f := range files {
		backing, err := os.ReadFile(f)
		if err != nil {
			continue // the device lost its file in the meantime
		}
		dev := Device{Path: filepath.Join(s.Dev, filepath.Base(filepath.Dir(filepath.Dir(f))))}
		status, err := s.Status(dev.Path)
		if errors.Is(err, unix.ENXIO) {
			continue // the device lost its file in the meantime
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
			return nil, fmt.Errorf("cannot read the status of loop device %s: %w", dev.Path, err)
		}
		if !match(strings.TrimSuffix(string(backing), "\n"), status) {
			continue
		}
		if status != nil {
			dev.ReadOnly = status.Flags&unix.LO_FLAGS_READ_ONLY != 0
			dev.file = fileID{dev: status.Device, inode: status.Inode}
		}
		found = append(found, dev)
	}
	return found, nil
}

// Status reads the status of the device at path. The error is ENXIO if the device has no
// backing file.
func (s *System) Status(path string) (*unix.LoopInfo64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // nothing was written
	return s.Kernel.Status(f)
}
