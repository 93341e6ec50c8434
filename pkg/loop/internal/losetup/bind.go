package losetup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
)

// Bind gives a free loop device the file. The device has the size of the file and keeps
// the file until it is cleared. label is the File_name of the device's status. Kinds:
// Unavailable (other processes took every free device), Internal.
func (s *System) Bind(file *os.File, label string, readOnly bool) (Device, error) {
	control, err := os.OpenFile(filepath.Join(s.Dev, "loop-control"), os.O_RDWR, 0)
	if err != nil {
		return Device{}, fmt.Errorf("cannot use loop devices: %w", err)
	}
	defer control.Close() //nolint:errcheck // holds no data
	for range maxBindAttempts {
		n, err := s.Kernel.GetFree(control)
		if err != nil {
			return Device{}, os.NewSyscallError("ioctl LOOP_CTL_GET_FREE", err)
		}
		dev := Device{Path: filepath.Join(s.Dev, fmt.Sprintf("loop%d", n)), ReadOnly: readOnly}
		if err := s.configure(dev, file, label); !errors.Is(err, errTaken) {
			return dev, err
		}
	}
	return Device{}, volume.Errorf(volume.KindUnavailable,
		"cannot take a loop device: other processes took every free one in %d attempts", maxBindAttempts)
}

// errTaken says that another process took the device that was free.
var errTaken = errors.New("another process took the loop device")

// maxBindAttempts bounds how often Bind asks for a free device: other processes can take
// the device between the kernel's answer and its use.
const maxBindAttempts = 64

// configure gives the device the file. It returns errTaken if another process has the device
// (EBUSY from LOOP_CONFIGURE) or is just releasing it (ENXIO from open).
func (s *System) configure(dev Device, file *os.File, label string) error {
	mode, info := os.O_RDWR, unix.LoopInfo64{}
	if dev.ReadOnly {
		mode, info.Flags = os.O_RDONLY, unix.LO_FLAGS_READ_ONLY
	}
	copy(info.File_name[:], label)
	f, err := os.OpenFile(dev.Path, mode, 0)
	if errors.Is(err, unix.ENXIO) {
		return errTaken
	}
	if err != nil {
		return fmt.Errorf("cannot open a free loop device: %w", err)
	}
	defer f.Close() //nolint:errcheck // nothing was written
	err = s.Kernel.Configure(f, &unix.LoopConfig{Fd: uint32(file.Fd()), Info: info})
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.ENOSYS) {
		err = s.configureOld(f, file, &info)
	}
	if errors.Is(err, unix.EBUSY) {
		return errTaken
	}
	if err != nil {
		return os.NewSyscallError("ioctl LOOP_CONFIGURE", err)
	}
	// Direct I/O avoids a second cache of the same data, that of the file. The device
	// works without it where the filesystem does not support it.
	_ = unix.IoctlSetInt(int(f.Fd()), unix.LOOP_SET_DIRECT_IO, 1)
	return nil
}

// configureOld is configure for kernels before 5.8, which need two steps. If the second
// step fails, the device is cleared: a device with other settings could pass for the
// volume's. The read-only flag comes from the descriptors.
func (s *System) configureOld(dev, file *os.File, info *unix.LoopInfo64) error {
	if err := unix.IoctlSetInt(int(dev.Fd()), unix.LOOP_SET_FD, int(file.Fd())); err != nil {
		return err
	}
	if err := s.Kernel.SetStatus(dev, info); err != nil {
		return volume.Join(err, Clear(dev))
	}
	return nil
}

// Clear removes the backing file from a device (LOOP_CLR_FD). If another process has
// the device open, the kernel does so when the last one closes it.
func Clear(dev *os.File) error {
	return os.NewSyscallError("ioctl LOOP_CLR_FD", unix.IoctlSetInt(int(dev.Fd()), unix.LOOP_CLR_FD, 0))
}

// CancelClear undoes Clear on a device that another process has open. isBound reports
// whether the device still has its file.
func (s *System) CancelClear(dev Device) (isBound bool, err error) {
	f, err := os.Open(dev.Path)
	if errors.Is(err, unix.ENXIO) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close() //nolint:errcheck // nothing was written
	status, err := s.Kernel.Status(f)
	if err == nil && dev.HasFile(status) && status.Flags&unix.LO_FLAGS_AUTOCLEAR != 0 {
		status.Flags &^= unix.LO_FLAGS_AUTOCLEAR
		err = s.Kernel.SetStatus(f, status)
	}
	if errors.Is(err, unix.ENXIO) || err == nil && !dev.HasFile(status) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("cannot keep the file of loop device %s: %w", dev.Path, err)
	}
	return true, nil
}
