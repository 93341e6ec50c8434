package losetup

import (
	"os"

	"golang.org/x/sys/unix"
)

// Kernel is the part of the kernel's interface to loop devices that tests replace.
type Kernel interface {
	GetFree(control *os.File) (int, error)                 // LOOP_CTL_GET_FREE
	Configure(dev *os.File, config *unix.LoopConfig) error // LOOP_CONFIGURE
	Status(dev *os.File) (*unix.LoopInfo64, error)         // LOOP_GET_STATUS64
	SetStatus(dev *os.File, info *unix.LoopInfo64) error   // LOOP_SET_STATUS64
	Sync(dev *os.File) error
}

// Linux is the running kernel.
type Linux struct{}

// GetFree implements Kernel.
func (Linux) GetFree(c *os.File) (int, error) {
	return unix.IoctlRetInt(int(c.Fd()), unix.LOOP_CTL_GET_FREE)
}

// Configure implements Kernel.
func (Linux) Configure(dev *os.File, config *unix.LoopConfig) error {
	return unix.IoctlLoopConfigure(int(dev.Fd()), config)
}

// Status implements Kernel.
func (Linux) Status(dev *os.File) (*unix.LoopInfo64, error) {
	return unix.IoctlLoopGetStatus64(int(dev.Fd()))
}

// SetStatus implements Kernel.
func (Linux) SetStatus(dev *os.File, info *unix.LoopInfo64) error {
	return unix.IoctlLoopSetStatus64(int(dev.Fd()), info)
}

// Sync implements Kernel.
func (Linux) Sync(dev *os.File) error { return dev.Sync() }
