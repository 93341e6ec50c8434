package filesystem

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/growvol/growvol/pkg/operation"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
)

// MountRequest asks for the filesystem on a device to be mounted.
type MountRequest struct {
	Device Device
	Target string // existing directory
	Type   Type
	// Options are mount options as in a StorageClass; SELinux's context= is
	// passed on to the kernel.
	Options []string
}

// BindRequest asks for what is at one path to be visible at another.
type BindRequest struct {
	Source  string   // mounted directory, or device node
	Target  string   // existing directory, or for a device node an existing file
	Options []string // mount options; those of a filesystem are left out
}

// Mount mounts a device at an existing directory by mount(2), after it has
// compared the number behind the device's path. It does not look whether
// something is mounted there already: a second call stacks a second mount.
//
// XFS is always mounted with nouuid: a clone or a restored snapshot has the
// UUID of its origin, and the kernel would refuse it beside the origin. Two
// btrfs filesystems of one UUID can be mounted on one node only from Linux
// 6.7 on.
//
// ext2 is mounted by the ext4 driver, and /proc/mounts calls it so: the ext2
// driver that some kernels have as well cannot grow it online.
//
// When ctx ends first the error is of kind Deadline (or Canceled), and the
// kernel may still finish the mount: look with FindMount before the next try.
// Kind Deadline as well: the device or the target is in use. Kind Precondition:
// the kernel refuses this filesystem.
func (s *System) Mount(ctx context.Context, req MountRequest) error {
	options := req.Options
	if req.Type == TypeXFS {
		options = append([]string{"nouuid"}, options...)
	}
	flags, data := parseMountFlags(options)
	if err := req.Device.CheckPath(); err != nil {
		return err
	}
	err := awaitSyscall(ctx, func() error {
		return s.kernel.mount(req.Device.Path(), req.Target, string(req.Type.mountType()), flags, data)
	})
	if err != nil {
		return s.mountError(ctx, req, err)
	}
	s.log.InfoContext(ctx, "mounted", "device", req.Device.Path(), "target", req.Target, "type", req.Type, "options", strings.Join(options, ","))
	return nil
}

// Bind makes what is at Source (a mounted directory, or a device node) visible
// at an existing Target of the same sort. Flags of the source mount (nosuid,
// nodev, ...) are kept; those of the request, such as ro, are added, from
// Linux 5.12 on before the mount can be seen at all. Kinds: Internal;
// Deadline or Canceled when ctx ended first: look with FindMount before the
// next try.
func (s *System) Bind(ctx context.Context, req BindRequest) error {
	err := awaitSyscall(ctx, func() error { return s.bind(req) })
	if err != nil {
		return bindError(req, err)
	}
	s.log.InfoContext(ctx, "bind mounted", "source", req.Source, "target", req.Target, "options", strings.Join(req.Options, ","))
	return nil
}

// bind makes the mount with its flags in one step, so that a crash cannot
// leave a writable one where a read-only one was asked for.
func (s *System) bind(req BindRequest) error {
	wanted, _ := parseMountFlags(req.Options)
	set, unset := mountAttributes(wanted)
	if set|unset == 0 {
		return s.kernel.mount(req.Source, req.Target, "", unix.MS_BIND, "")
	}
	err := s.kernel.bind(req.Source, req.Target, set, unset)
	for _, lack := range []error{unix.ENOSYS, unix.EOPNOTSUPP, unix.EINVAL, unix.EPERM, unix.EACCES} {
		if errors.Is(err, lack) { // an old kernel, a flag it does not know, or a filter on system calls
			return s.bindInSteps(req, wanted)
		}
	}
	return err
}

// bindInSteps mounts, then sets the flags, as mount(2) demands; when that
// fails nothing stays behind.
func (s *System) bindInSteps(req BindRequest, wanted uintptr) error {
	if err := s.kernel.mount(req.Source, req.Target, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	err := s.remountWithFlags(req.Target, wanted)
	if err == nil {
		return nil
	}
	if undo := s.kernel.unmount(req.Target, unix.UMOUNT_NOFOLLOW); undo != nil {
		return fmt.Errorf("set flags: %w; and taking the bind mount back failed: %w", err, undo)
	}
	return fmt.Errorf("set flags: %w", err)
}

func (s *System) remountWithFlags(target string, wanted uintptr) error {
	st, err := s.kernel.statfs(target)
	if err != nil {
		return err
	}
	return s.kernel.mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|wanted|remountFlags(st.flags), "")
}

// Unmount takes away one mount, as FindMount has returned it, and returns once
// the mount table is read back without it. A mount that is gone already is a
// success. What lies below it on the same path is left alone: look with
// FindMount, and prove whose that is, before it is unmounted, too.
//
// Kinds: Precondition (another mount is on top of it), Deadline (it is busy),
// Deadline or Canceled (ctx ended while the kernel was still at work: it may write back
// data and goes on).
func (s *System) Unmount(ctx context.Context, m Mount) error {
	err := awaitSyscall(ctx, func() error {
		there, err := s.checkTopmost(m)
		if err != nil || !there {
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

// checkTopmost reports whether m is still mounted. The error says what keeps
// its mount point from leading to it: umount2(2) takes away whatever the path
// leads to.
func (s *System) checkTopmost(m Mount) (there bool, err error) {
	mounts, err := s.readMounts()
	if err != nil {
		return false, err
	}
	if !slices.ContainsFunc(mounts, m.isSame) {
		return false, nil
	}
	onTop := func(o Mount) bool { return o.Parent == m.ID && o.ID != m.ID && o.MountPoint == m.MountPoint }
	if i := slices.IndexFunc(mounts, onTop); i >= 0 {
		return false, volume.Errorf(volume.KindPrecondition, "%s (%s) is mounted on top of it", mounts[i].Source, mounts[i].FSType).
			WithRemedy("unmount that first")
	}
	st, err := s.kernel.statMount(m.MountPoint)
	switch {
	case err != nil && !isShutDownErrno(err):
		return false, err
	case err == nil && st.mountID != 0 && st.mountID != m.ID:
		return false, volume.Errorf(volume.KindPrecondition, "a mount on a directory above hides it").
			WithRemedy("find out who mounted over the directories above, and unmount that first")
	}
	return true, nil
}

// unmountTop unmounts m, which its mount point leads to, and reads it back.
func (s *System) unmountTop(m Mount) error {
	err := s.kernel.unmount(m.MountPoint, unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return err
	}
	// After these two somebody else may have been faster.
	mounts, readErr := s.readMounts()
	switch {
	case readErr != nil:
		return errors.Join(err, readErr)
	case !slices.ContainsFunc(mounts, m.isSame):
		return nil
	case err != nil:
		return err
	}
	return errors.New("the mount table still has it")
}

func unmountError(m Mount, err error) error {
	e := volume.Errorf(volume.KindInternal, "unmount %s (%s of %s): %w", m.MountPoint, m.FSType, m.Source, err)
	var known *volume.Error
	switch {
	case errors.As(err, &known):
		e.Kind, e.Msg = known.Kind, fmt.Sprintf("unmount %s (%s of %s): %s", m.MountPoint, m.FSType, m.Source, known.Msg)
		return e.WithRemedy(known.Remedy)
	case isContextError(err):
		e.Kind = volume.KindOf(err)
		return e.WithRemedy("the kernel still writes back data; the unmount is looked at again at the next try")
	case errors.Is(err, unix.EBUSY):
		e.Kind = volume.KindDeadline
		return e.WithRemedy("a process on this node has files open below the mount point, or the filesystem is being grown")
	}
	return e
}

// awaitSyscall runs a system call that cannot be interrupted and stops
// waiting for it when ctx ends; the call itself goes on.
func awaitSyscall(ctx context.Context, call func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	_, err := operation.AwaitCall(ctx, func() (struct{}, error) { return struct{}{}, call() })
	return err
}

func isContextError(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}
