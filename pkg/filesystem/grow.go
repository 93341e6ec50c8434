package filesystem

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// GrowRequest asks for a mounted filesystem to be grown to the size of its device.
type GrowRequest struct {
	// MountPoint is where the filesystem is mounted writable: the staging path, or a bind
	// mount of it that is not read-only.
	MountPoint string
	// Device is the block device that the filesystem must be on: the dm-crypt device when
	// there is one.
	Device Device
	// Required is the minimum size of the device; zero: any. Grow returns an error of kind
	// Deadline for a smaller device, which has not grown yet.
	Required volume.Size
}

// Method says how a filesystem was grown.
type Method string

// The methods.
const (
	MethodNone  Method = "none"  // this call changed nothing
	MethodIoctl Method = "ioctl" // by the kernel's ioctl
	MethodTool  Method = "tool"  // by resize2fs, xfs_growfs or btrfs
)

// Growth is the result of Grow. Every size was read back.
type Growth struct {
	Type       Type
	Before     volume.Size // the size of the filesystem before the growth
	After      volume.Size // and after it
	DeviceSize volume.Size
	Method     Method
}

// Grow grows a filesystem online until it fills its device, and returns its size as read
// back afterwards. A filesystem that fills its device already is not changed. A tail that
// is too short to be used counts as filled: one shorter than the metadata of an ext group,
// than 64 XFS blocks, or than one block.
//
// Before the request Grow refuses each state to which the kernel would react with damage,
// with a crash, or with an errno that does not show the cause. Kinds:
//
//   - Precondition: nothing, or another device, is mounted there; the filesystem is larger
//     than its device (XFS and btrfs would shrink); it or its mount is read-only; ext has
//     sparse_super2; the filesystem has shut down, was made read-only by an error, or is an
//     ext with errors recorded, also when it fills its device, because a growth that
//     failed half-way looks the same.
//   - Precondition: no space, or an I/O error, during the growth: the storage below may be
//     full.
//   - Precondition: this process lacks CAP_SYS_RESOURCE (ext). The kind is not Denied,
//     for which kubelet would not start the pod; the pod can work without the growth.
//   - OutOfRange: the format cannot hold Required. ext without the 64bit feature ends at
//     2^32 blocks, which the kernel does not check, and every ext at 2^32 inodes.
//   - Deadline, Canceled: the device has not reached Required, or another growth of the
//     filesystem did not end before ctx.
//   - Internal: the kernel accepted the request, but the size did not change; an errno
//     without a known cause.
//
// The growth itself cannot be interrupted: Grow returns only after the kernel has, also
// when ctx has ended and when the kernel waits until a frozen filesystem is thawed. Run it
// apart from an RPC (operation.RunDetached), and keep the volume's lock until it returns.
// The waits for another growth end with ctx.
func (s *System) Grow(ctx context.Context, req GrowRequest) (Growth, error) {
	f, g, err := s.openGrower(req.Device, req.MountPoint)
	if err != nil {
		return Growth{}, err
	}
	defer f.close()
	growth, err := s.grow(ctx, f, g, req)
	if err == nil && growth.Method != MethodNone {
		s.log.InfoContext(ctx, "filesystem grown", "device", req.Device.Path(), "type", growth.Type,
			"before", growth.Before.String(), "after", growth.After.String(),
			"deviceSize", growth.DeviceSize.String(), "method", string(growth.Method))
	}
	return growth, err
}

func (s *System) grow(ctx context.Context, f *mountedFilesystem, g grower, req GrowRequest) (Growth, error) {
	device, err := sizeOf(f.device)
	if err != nil {
		return Growth{}, err
	}
	current, err := g.readGeometry(ctx)
	if err != nil {
		return Growth{}, err
	}
	growth := Growth{
		Type: current.fsType, Before: current.size(), After: current.size(), DeviceSize: device,
		Method: MethodNone,
	}
	goal := g.goal(device)
	if err := checkSizes(req, current, goal, device); err != nil {
		return growth, err
	}
	if err := g.checkHealth(); err != nil {
		return growth, err
	}
	if current.blocks >= goal.full {
		return growth, nil
	}
	if err := f.checkWritable(current, device); err != nil {
		return growth, err
	}
	if err := g.checkGrowable(); err != nil {
		return growth, err
	}
	growth.Method, err = s.resizeUntilDone(ctx, f, g, goal)
	if err != nil {
		return growth, err
	}
	return verifyGrowth(ctx, f, g, goal, growth)
}

// checkSizes returns an error if the sizes alone rule out the growth.
func checkSizes(req GrowRequest, current geometry, goal goal, device volume.Size) error {
	switch {
	case device < req.Required:
		return volume.Errorf(volume.KindDeadline, "the device %s has %s, not yet the required %s",
			req.Device.Path(), device, req.Required).
			WithRemedy("Kubernetes retries this automatically; " +
				"if the error persists, check that the storage system has announced the new size to this node")
	case current.size() > device:
		return volume.Errorf(volume.KindPrecondition,
			"the %s at %s has %s, more than its device %s with %s: growing it could cut off its end",
			current.fsType, req.MountPoint, current.size(), req.Device.Path(), device).
			WithRemedy("stop the pods that use the volume; then expand the claim to at least " + current.size().String() +
				", or restore the volume from a snapshot")
	case goal.limit != nil && req.Required > goal.limit.size:
		return volume.Errorf(volume.KindOutOfRange, "the %s at %s can grow to %s at most, not to %s: %s",
			current.fsType, req.MountPoint, goal.limit.size, req.Required, goal.limit.reason).
			WithRemedy("request at most " + goal.limit.size.String() +
				" in resources.requests.storage of the claim, or copy the data to a new volume (ext4 or xfs)")
	}
	return nil
}

// checkWritable returns an error if the filesystem is read-only: growth writes to it.
func (f *mountedFilesystem) checkWritable(current geometry, device volume.Size) error {
	if !f.isReadOnly {
		return nil
	}
	e := volume.Errorf(volume.KindPrecondition, "the %s at %s has %s of %s and cannot grow: it is read-only",
		current.fsType, f.mountPoint, current.size(), device)
	if f.entry.IsReadOnly() && !f.entry.IsFilesystemReadOnly() {
		return e.WithRemedy("grow it through another mount that is writable: only this mount is read-only")
	}
	return e.WithRemedy("mount the volume writable: it grows at that moment")
}

// maxRetryInterval bounds the wait between two requests while another growth is under way.
const maxRetryInterval = time.Second

// resizeUntilDone repeats the request until the kernel has grown the filesystem or refused
// to. It runs the tool where the kernel does not know the ioctl. The method is MethodNone
// when another request has reached the goal.
func (s *System) resizeUntilDone(ctx context.Context, f *mountedFilesystem, g grower, goal goal) (Method, error) {
	if err := ctx.Err(); err != nil {
		return MethodNone, volume.Wrap(err, "the growth of the filesystem at "+f.mountPoint+" did not begin", "")
	}
	for interval := s.retryInterval; ; interval = min(2*interval, maxRetryInterval) {
		err := g.resize(goal.blocks)
		switch {
		case err == nil:
			return MethodIoctl, nil
		case errors.Is(err, unix.ENOTTY), errors.Is(err, errors.ErrUnsupported): // ENOSYS, EOPNOTSUPP
			return MethodTool, f.growByTool(ctx, g.toolCommand(goal.blocks), err)
		case !g.isBusy(err) && !errors.Is(err, unix.EINTR):
			return MethodNone, g.explainError(ctx, err)
		}
		waitErr := operation.Sleep(ctx, interval)
		current, readErr := g.readGeometry(context.WithoutCancel(ctx))
		switch {
		case readErr != nil:
			return MethodNone, readErr
		case current.blocks >= goal.minResult:
			return MethodNone, nil
		case waitErr != nil:
			return MethodNone, &volume.Error{
				Kind: volume.KindOf(waitErr), Cause: err,
				Msg: fmt.Sprintf("the %s at %s has %s and is still being grown by another request",
					current.fsType, f.mountPoint, current.size()),
				Remedy: "no action needed: the operation continues and the next retry picks it up",
			}
		}
	}
}

// growByTool runs the filesystem's own tool. cause is the kernel's answer to the ioctl.
func (f *mountedFilesystem) growByTool(ctx context.Context, command []string, cause error) error {
	if err := f.device.CheckPath(); err != nil { // resize2fs takes it
		return err
	}
	output, code, err := f.sys.run(ctx, command[0], command[1:]...)
	switch {
	case err != nil:
		return volume.Wrap(err, "cannot grow by "+command[0]+" (the ioctl of the kernel failed: "+cause.Error()+")", "")
	case code != 0 && isInUse(output):
		return volume.Errorf(volume.KindDeadline,
			"%s did not grow the filesystem, because another request uses it (exit status %d): %s",
			command[0], code, output).
			WithRemedy("no action needed: Kubernetes retries this automatically")
	case code != 0:
		return volume.Errorf(volume.KindPrecondition,
			"the kernel of this node cannot grow this filesystem online (%w), nor can %s (exit status %d): %s",
			cause, command[0], code, output).
			WithRemedy("stop the pods that use the volume: " +
				"it grows when it is mounted again on a node whose kernel can grow it")
	}
	return nil
}

// verifyGrowth completes the growth by the size and the health of the filesystem as read
// back. It ignores the end of ctx, because ctx may have ended during the growth.
func verifyGrowth(ctx context.Context, f *mountedFilesystem, g grower, goal goal, growth Growth) (Growth, error) {
	current, err := g.readGeometry(context.WithoutCancel(ctx))
	if err != nil {
		return growth, err
	}
	growth.After = current.size()
	if err := f.readMountEntry(); err != nil { // checkHealth reads its options
		return growth, err
	}
	if err := g.checkHealth(); err != nil {
		return growth, err
	}
	if current.blocks < goal.minResult {
		return growth, volume.Errorf(volume.KindInternal,
			"the kernel accepted the growth of the %s at %s to %s, but it reads back %s (before: %s; device: %s)",
			current.fsType, f.mountPoint, current.sizeOf(goal.blocks), growth.After, growth.Before, growth.DeviceSize).
			WithRemedy("check the kernel log of this node")
	}
	return growth, nil
}

// explainErrno adds cause and remedy to an errno of the growth request that means the same
// for all filesystems. request is the name of the ioctl.
func (f *mountedFilesystem) explainErrno(err error, request string) error {
	switch {
	case isShutDownErrno(err), errors.Is(err, unix.ENOSPC):
		// The first writes to the new part are the first to need space in thin storage.
		return volume.Errorf(volume.KindPrecondition, "the growth of the filesystem at %s failed: "+
			"the storage below %s may be full, or the device may have failed; the filesystem may have shut down: %w",
			f.mountPoint, f.device.Path(), err).
			WithRemedy("check the kernel log of this node, and free space in the storage; then restart the pods " +
				"that use the volume: it is checked, mounted again, and grows")
	case errors.Is(err, unix.EROFS):
		return volume.Errorf(volume.KindPrecondition, "the filesystem at %s has become read-only: %w", f.mountPoint, err).
			WithRemedy("check the kernel log of this node; if an error made it read-only, " +
				Type(f.entry.FSType).repairRemedy(f.device.Path()) + "; then mount the volume writable: it grows at that moment")
	case errors.Is(err, unix.EPERM):
		return volume.Errorf(volume.KindPrecondition, "growing %s needs CAP_SYS_ADMIN, which this process lacks: %w",
			f.entry.FSType, err).
			WithRemedy("run the node plugin privileged")
	}
	return volume.Errorf(volume.KindInternal, "cannot grow the filesystem at %s (%s): %w", f.mountPoint, request, err).
		WithRemedy("check the kernel log of this node")
}

// checkGrowable returns nil, for XFS and btrfs: only extGrower knows states in which the
// kernel cannot grow the filesystem.
func (f *mountedFilesystem) checkGrowable() error { return nil }
