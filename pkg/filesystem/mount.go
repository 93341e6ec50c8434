package filesystem

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// MountRequest asks for the filesystem on a device to be mounted.
type MountRequest struct {
	Device Device
	Target string // an existing directory
	Type   Type
	// Options are mount options as in a StorageClass. The context= of SELinux goes to the
	// kernel.
	Options []string
}

// BindRequest asks for what is at one path to be visible at another.
type BindRequest struct {
	Source  string   // a mounted directory, or a device node
	Target  string   // an existing directory, or for a device node an existing file
	Options []string // mount options; those of a filesystem are left out
}

// Mount mounts a device at an existing directory, by mount(2), after it has checked the
// device's path. It does not check whether something is mounted there already: a second
// call stacks a second mount.
//
// XFS is always mounted with nouuid: a clone or a restored snapshot has the UUID of its
// origin, and the kernel refuses it beside the origin. Two btrfs filesystems of one UUID can
// be mounted on one node only since Linux 6.7.
//
// ext2 is mounted by the ext4 driver, and the mount table shows it as ext4: the ext2 driver,
// which some kernels also have, cannot grow it online.
//
// Kinds: Deadline when the device or the target is in use; Precondition when the kernel
// refuses this filesystem; Internal; Deadline or Canceled when ctx ends first. The kernel
// may then still finish the mount: call FindMount before the next try.
func (s *System) Mount(ctx context.Context, req MountRequest) error {
	options := req.Options
	if req.Type == TypeXFS {
		options = append([]string{"nouuid"}, options...)
	}
	flags, data := parseMountOptions(options)
	if err := req.Device.CheckPath(); err != nil {
		return err
	}
	err := awaitSyscall(ctx, func() error {
		return s.kernel.mount(req.Device.Path(), req.Target, string(req.Type.mountType()), flags, data)
	})
	if err != nil {
		return s.mountError(ctx, req, err)
	}
	s.log.InfoContext(ctx, "mounted", "device", req.Device.Path(), "target", req.Target, "type", req.Type,
		"options", strings.Join(options, ","))
	return nil
}

// Bind makes what is at Source (a mounted directory, or a device node) visible at an
// existing Target of the same sort. The flags of the source mount (nosuid, nodev, ...) are
// kept, and those of the request, such as ro, are added. Since Linux 5.12 the mount has all
// its flags before any process can see it.
//
// Kinds: Deadline when the target is in use; Internal; Deadline or Canceled when ctx ended
// first. The kernel may then still finish the mount: call FindMount before the next try.
func (s *System) Bind(ctx context.Context, req BindRequest) error {
	err := awaitSyscall(ctx, func() error { return s.bind(req) })
	if err != nil {
		return bindError(req, err)
	}
	s.log.InfoContext(ctx, "bind mounted", "source", req.Source, "target", req.Target,
		"options", strings.Join(req.Options, ","))
	return nil
}

// bind makes the mount with its flags in one step, so that a crash cannot leave a writable
// mount where a read-only one was requested.
func (s *System) bind(req BindRequest) error {
	flags, _ := parseMountOptions(req.Options)
	set, unset := mountAttributes(flags)
	if set|unset == 0 {
		return s.kernel.mount(req.Source, req.Target, "", unix.MS_BIND, "")
	}
	err := s.kernel.bind(req.Source, req.Target, set, unset)
	// These errors mean an old kernel, a flag that the kernel does not know, or a filter on
	// system calls.
	for _, unsupported := range []error{errors.ErrUnsupported, unix.EINVAL, fs.ErrPermission} {
		if errors.Is(err, unsupported) {
			return s.bindInSteps(req, flags)
		}
	}
	return err
}

// bindInSteps makes the mount, then sets its flags. It removes the mount if the flags
// cannot be set.
func (s *System) bindInSteps(req BindRequest, flags uintptr) error {
	if err := s.kernel.mount(req.Source, req.Target, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	st, err := s.kernel.statfs(req.Target)
	if err == nil {
		flags |= unix.MS_BIND | unix.MS_REMOUNT | remountFlags(st.Flags)
		err = s.kernel.mount("", req.Target, "", flags, "")
	}
	if err == nil {
		return nil
	}
	if undoErr := s.kernel.unmount(req.Target, unix.UMOUNT_NOFOLLOW); undoErr != nil {
		return fmt.Errorf("cannot set the mount flags: %w; cannot remove the bind mount: %w", err, undoErr)
	}
	return fmt.Errorf("cannot set the mount flags: %w", err)
}

// Unmount removes one mount, as returned by FindMount, and returns once the mount table
// was read back without it. It succeeds if the mount is gone already. It does not unmount
// what is mounted below it on the same path: call FindMount, and check whose that mount is,
// before unmounting it too.
//
// Kinds: Precondition (another mount covers it), Deadline (it is busy), Internal; Deadline
// or Canceled when ctx ended while the kernel was at work: it may be writing back data, and
// continues.
func (s *System) Unmount(ctx context.Context, m Mount) error {
	err := awaitSyscall(ctx, func() error {
		isMounted, err := s.checkTopmost(m)
		if err != nil || !isMounted {
			return err
		}
		return s.unmountTop(m)
	})
	if err != nil {
		return unmountError(m, err)
	}
	s.log.InfoContext(ctx, "unmounted", "target", m.MountPoint, "source", m.Source)
	return nil
}

// checkTopmost reports whether m is still mounted. It returns an error of kind
// Precondition if the mount point of m does not lead to m: umount2(2) removes the mount to
// which the path leads.
func (s *System) checkTopmost(m Mount) (isMounted bool, err error) {
	mounts, err := s.readMounts()
	if err != nil {
		return false, err
	}
	if !slices.ContainsFunc(mounts, m.isSame) {
		return false, nil
	}
	if i := slices.IndexFunc(mounts, m.isCoveredBy); i >= 0 {
		return false, volume.Errorf(volume.KindPrecondition, "%s (%s) is mounted on top of it",
			mounts[i].Source, mounts[i].FSType).
			WithRemedy("unmount that first: umount " + m.MountPoint)
	}
	st, err := s.kernel.statMount(m.MountPoint)
	switch {
	case err != nil && !isShutDownErrno(err):
		return false, err
	case err == nil && st.mountID != 0 && st.mountID != m.ID:
		return false, volume.Errorf(volume.KindPrecondition, "another mount, on a directory above, hides it").
			WithRemedy("find the mount on a directory above (findmnt --target " + m.MountPoint + "), and unmount that first")
	}
	return true, nil
}

// unmountTop unmounts m, to which its mount point leads, and reads the mount table back.
func (s *System) unmountTop(m Mount) error {
	err := s.kernel.unmount(m.MountPoint, unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return err
	}
	// After EINVAL and ENOENT another process may have unmounted it.
	mounts, readErr := s.readMounts()
	switch {
	case readErr != nil:
		return volume.Join(err, readErr)
	case !slices.ContainsFunc(mounts, m.isSame):
		return nil
	case err != nil:
		return err
	}
	return errors.New("the mount table still lists it")
}

// awaitSyscall makes a system call that cannot be interrupted, and returns ctx's error if
// ctx ends first; the call itself continues.
func awaitSyscall(ctx context.Context, call func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	_, err := operation.AwaitCall(ctx, func() (struct{}, error) { return struct{}{}, call() })
	return err
}
