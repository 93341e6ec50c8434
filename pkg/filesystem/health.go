package filesystem

import (
	"context"
	"errors"
	"slices"

	"github.com/growvol/growvol/pkg/volume"
)

// CheckHealth looks whether the filesystem of a device, mounted at mountPoint,
// answers and has not given up after an error. It writes nothing and starts no
// program. What it looks at: XFS that has shut down answers with EIO; ext has
// its error flag set, or has been shut down or made read-only; btrfs has been
// made read-only. An error that the filesystem has not met yet, because nothing
// was written since, cannot be seen.
//
// Kinds: Precondition (it has given up, or something else is mounted there),
// Internal (the device cannot be read), Deadline and Canceled: it did not
// answer within ctx. The look then goes on until the kernel lets go of it, so
// ask again only after a while.
func (s *System) CheckHealth(ctx context.Context, dev Device, mountPoint string) error {
	_, err := awaitMountRead(ctx, s, dev, mountPoint, func() (struct{}, error) {
		t, err := s.openMounted(dev, mountPoint)
		if err != nil {
			return struct{}{}, err
		}
		defer t.close()
		g, err := t.newGrower()
		if err != nil {
			return struct{}{}, err
		}
		if _, err := g.readGeometry(ctx); err != nil {
			return struct{}{}, err
		}
		return struct{}{}, g.checkHealth()
	})
	return err
}

// checkHealth refuses a filesystem that has given up writing after an error: what
// it keeps in memory, its size included, need not be on the device.
//
// A filesystem that was mounted writable and is read-only as a whole was made
// so afterwards: mounting it read-only makes the mount read-only as well.
// Newer kernels leave it writable by name and say "emergency_ro" (ext).
func (f *mountedFilesystem) checkHealth() error {
	switch {
	case f.hasShutDown():
		return newShutDownError(f.mountPoint, errors.New("the mount table lists it as shut down"))
	case f.becameReadOnly():
		return volume.Errorf(volume.KindPrecondition, "the %s at %s was mounted writable and has become read-only, as an error makes it: its size cannot be trusted",
			f.entry.FSType, f.mountPoint).
			WithRemedy("stop the pods that use the volume, see that the storage below has room, " + repairCommand(Type(f.entry.FSType), f.devicePath) + ", and start them again; the kernel log of this node names the error")
	}
	return nil
}

// hasShutDown reports whether the mount table lists the filesystem as shut
// down, as newer kernels do.
func (f *mountedFilesystem) hasShutDown() bool {
	return slices.Contains(f.entry.SuperOptions, "shutdown")
}

// becameReadOnly reports whether an error has made the filesystem read-only.
func (f *mountedFilesystem) becameReadOnly() bool {
	return slices.Contains(f.entry.SuperOptions, "emergency_ro") || f.entry.IsFilesystemReadOnly() && !slices.Contains(f.entry.Options, "ro")
}

// checkHealth adds the error flag of ext: a growth that failed half-way leaves the
// new size in memory, and the flag.
func (e *extGrower) checkHealth() error {
	if e.superblock.hasErrors() {
		return e.flaggedError(nil)
	}
	return e.mountedFilesystem.checkHealth()
}

// growthFailedError explains an I/O error or a lack of space in the middle of a
// growth, whose first writes to the new part are the first to need room in
// thinly provisioned storage.
func (f *mountedFilesystem) growthFailedError(err error) error {
	return volume.Errorf(volume.KindPrecondition,
		"the growth of the filesystem at %s failed: the storage below %s may be full, or its device fails; the filesystem may have shut down: %w",
		f.mountPoint, f.devicePath, err).
		WithRemedy("make room in the storage (the kernel log of this node names the error), then restart the pods that use the volume: it is checked, mounted anew, and grows then")
}
