package loop

import (
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

// kernel is what this package asks of the kernel beside files: the ioctls of
// <linux/loop.h> and FICLONE of <linux/fs.h>.
type kernel interface {
	GetFree(control *os.File) (int, error)
	Configure(dev *os.File, config *unix.LoopConfig) error
	SetFile(dev *os.File, fd int) error
	SetStatus(dev *os.File, info *unix.LoopInfo64) error
	Status(dev *os.File) (*unix.LoopInfo64, error)
	SetDirectIO(dev *os.File) error
	ClearFile(dev *os.File) error
	Sync(dev *os.File) error
	Clone(dst, src *os.File) error
}

// linux is the running kernel.
type linux struct{}

func (linux) GetFree(c *os.File) (int, error) {
	return unix.IoctlRetInt(int(c.Fd()), unix.LOOP_CTL_GET_FREE)
}

func (linux) Configure(dev *os.File, config *unix.LoopConfig) error {
	return unix.IoctlLoopConfigure(int(dev.Fd()), config)
}

func (linux) SetFile(dev *os.File, fd int) error {
	return unix.IoctlSetInt(int(dev.Fd()), unix.LOOP_SET_FD, fd)
}

func (linux) SetStatus(dev *os.File, info *unix.LoopInfo64) error {
	return unix.IoctlLoopSetStatus64(int(dev.Fd()), info)
}

func (linux) Status(dev *os.File) (*unix.LoopInfo64, error) {
	return unix.IoctlLoopGetStatus64(int(dev.Fd()))
}

func (linux) SetDirectIO(dev *os.File) error {
	return unix.IoctlSetInt(int(dev.Fd()), unix.LOOP_SET_DIRECT_IO, 1)
}

func (linux) ClearFile(dev *os.File) error {
	return unix.IoctlSetInt(int(dev.Fd()), unix.LOOP_CLR_FD, 0)
}

func (linux) Sync(dev *os.File) error { return dev.Sync() }

func (linux) Clone(dst, src *os.File) error {
	return unix.IoctlFileClone(int(dst.Fd()), int(src.Fd()))
}

// loops are the machine's loop devices.
type loops struct {
	sysfs  string
	dev    string
	kernel kernel
}

func newLoops() *loops { return &loops{sysfs: "/sys", dev: "/dev", kernel: linux{}} }

// device is a loop device that has a file.
type device struct {
	name     string // "loop3"
	path     string // "/dev/loop3"
	readOnly bool
	file     fileID
}

// fileID is a file's identity on this machine.
type fileID struct{ dev, inode uint64 }

// has tells whether a status shows the file that d was found by.
func (d device) has(info *unix.LoopInfo64) bool {
	return d.file == fileID{dev: info.Device, inode: info.Inode}
}

func paths(devices []device) string {
	list := make([]string, len(devices))
	for i, d := range devices {
		list[i] = d.path
	}
	return strings.Join(list, ", ")
}

// bound returns the loop devices whose backing file is this very file, by
// device and inode number. The name that the kernel shows is compared only
// where a device cannot be opened (a controller without /dev): an id in it
// cannot be another volume's.
func (l *loops) bound(file string) ([]device, error) {
	var st unix.Stat_t
	if err := unix.Stat(file, &st); err != nil {
		return nil, &os.PathError{Op: "stat", Path: file, Err: err}
	}
	return l.find(func(backing string, info *unix.LoopInfo64) bool {
		if info == nil {
			return strings.HasSuffix(backing, string(filepath.Separator)+tail(file))
		}
		return sameFile(info, &st)
	})
}

// orphans returns the loop devices whose backing file had one of these paths
// and was deleted.
func (l *loops) orphans(files ...string) ([]device, error) {
	gone := deletedPaths(files...)
	return l.find(func(backing string, _ *unix.LoopInfo64) bool { return slices.Contains(gone, backing) })
}

// deletedPaths returns how the kernel shows backing files that had one of these
// paths when they were deleted. Their directories may be reached by links.
func deletedPaths(files ...string) []string {
	var gone []string
	for _, file := range files {
		gone = append(gone, file+" (deleted)")
		// The object's own directory is gone; the ones above it are not.
		above := filepath.Dir(filepath.Dir(file))
		if resolved, err := filepath.EvalSymlinks(above); err == nil {
			gone = append(gone, resolved+strings.TrimPrefix(file, above)+" (deleted)")
		}
	}
	return gone
}

// tail is the part of a data file's path that is unique: volumes/<id>/data.
func tail(file string) string {
	dir := filepath.Dir(file)
	return filepath.Join(filepath.Base(filepath.Dir(dir)), filepath.Base(dir), filepath.Base(file))
}

func sameFile(info *unix.LoopInfo64, st *unix.Stat_t) bool {
	return info.Device == uint64(st.Dev) && info.Inode == st.Ino //nolint:unconvert // narrower on some architectures
}

// find returns the devices that match accepts. It is given the path of the
// backing file as the kernel shows it, and the device's status, nil where
// that cannot be had.
func (l *loops) find(match func(backing string, info *unix.LoopInfo64) bool) ([]device, error) {
	files, err := filepath.Glob(filepath.Join(l.sysfs, "class", "block", "loop*", "loop", "backing_file"))
	if err != nil {
		return nil, err
	}
	var found []device
	for _, f := range files {
		backing, err := os.ReadFile(f)
		if err != nil {
			continue // released meanwhile
		}
		name := filepath.Base(filepath.Dir(filepath.Dir(f)))
		d := device{name: name, path: filepath.Join(l.dev, name)}
		info, err := l.status(d.path)
		if errors.Is(err, unix.ENXIO) {
			continue // released meanwhile
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
			return nil, fmt.Errorf("read the status of loop device %s: %w", d.path, err)
		}
		if match(strings.TrimSuffix(string(backing), "\n"), info) {
			if info != nil {
				d.readOnly = info.Flags&unix.LO_FLAGS_READ_ONLY != 0
				d.file = fileID{dev: info.Device, inode: info.Inode}
			}
			found = append(found, d)
		}
	}
	return found, nil
}

// status reads a device's LOOP_GET_STATUS64; ENXIO: it has no file.
func (l *loops) status(path string) (*unix.LoopInfo64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only asked
	return l.kernel.Status(f)
}

// keep undoes the effect of LOOP_CLR_FD on a device that somebody has open:
// it would lose its file at the last close. kept is false when it has lost
// it already.
func (l *loops) keep(d device) (kept bool, err error) {
	f, err := os.Open(d.path)
	if errors.Is(err, unix.ENXIO) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close() //nolint:errcheck // nothing was written
	info, err := l.kernel.Status(f)
	if err == nil && d.has(info) && info.Flags&unix.LO_FLAGS_AUTOCLEAR != 0 {
		info.Flags &^= unix.LO_FLAGS_AUTOCLEAR
		err = l.kernel.SetStatus(f, info)
	}
	if errors.Is(err, unix.ENXIO) || err == nil && !d.has(info) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("keep loop device %s: %w", d.path, err)
	}
	return true, nil
}

// bind gives a free loop device the file. The device is not larger than the
// file and stays until release.
func (l *loops) bind(file *os.File, id string, readOnly bool) (device, error) {
	control, err := os.OpenFile(filepath.Join(l.dev, "loop-control"), os.O_RDWR, 0)
	if err != nil {
		return device{}, fmt.Errorf("loop devices are not available: %w", err)
	}
	defer control.Close() //nolint:errcheck // holds no data
	// Others take devices too, between the two calls below.
	const attempts = 64
	for range attempts {
		n, err := l.kernel.GetFree(control)
		if err != nil {
			return device{}, os.NewSyscallError("ioctl LOOP_CTL_GET_FREE", err)
		}
		name := fmt.Sprintf("loop%d", n)
		d := device{name: name, path: filepath.Join(l.dev, name), readOnly: readOnly}
		err = l.configure(d, file, id)
		if err == nil {
			return d, nil
		}
		if !errors.Is(err, errTaken) {
			return device{}, err
		}
	}
	return device{}, volume.Errorf(volume.KindUnavailable, "other processes took every free loop device in %d attempts", attempts)
}

// errTaken says that a device that was free is not free any more.
var errTaken = errors.New("taken meanwhile")

// configure binds the file to this device; errTaken: somebody else was quicker,
// and has it still (LOOP_CONFIGURE: EBUSY) or just lets it go (open: ENXIO).
func (l *loops) configure(d device, file *os.File, id string) error {
	mode := os.O_RDWR
	info := unix.LoopInfo64{}
	if d.readOnly {
		mode, info.Flags = os.O_RDONLY, unix.LO_FLAGS_READ_ONLY
	}
	copy(info.File_name[:], id)
	dev, err := os.OpenFile(d.path, mode, 0)
	if errors.Is(err, unix.ENXIO) {
		return errTaken
	}
	if err != nil {
		return fmt.Errorf("open a free loop device: %w", err)
	}
	defer dev.Close() //nolint:errcheck // nothing was written
	err = l.kernel.Configure(dev, &unix.LoopConfig{Fd: uint32(file.Fd()), Info: info})
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.ENOSYS) {
		err = l.configureOld(dev, file, &info)
	}
	if errors.Is(err, unix.EBUSY) {
		return errTaken
	}
	if err != nil {
		return os.NewSyscallError("ioctl LOOP_CONFIGURE", err)
	}
	// Direct I/O keeps the data from being cached twice, once for the
	// volume and once for its file. Where the filesystem cannot do it the
	// device works as well.
	_ = l.kernel.SetDirectIO(dev)
	return nil
}

// configureOld is for kernels before 5.8. It has two steps; a device that got
// stuck between them would be taken for ours with other settings, so it is
// released. The read-only flag comes from the descriptors.
func (l *loops) configureOld(dev, file *os.File, info *unix.LoopInfo64) error {
	if err := l.kernel.SetFile(dev, int(file.Fd())); err != nil {
		return err
	}
	if err := l.kernel.SetStatus(dev, info); err != nil {
		return errors.Join(err, l.kernel.ClearFile(dev))
	}
	return nil
}
