package filesystem

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/growvol/growvol/pkg/operation"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
)

// GrowRequest asks for a mounted filesystem to fill its device.
type GrowRequest struct {
	// MountPoint is where it is mounted writable: the staging path. A bind
	// mount of it does as well, unless that is read-only.
	MountPoint string
	// Device is the block device that must be behind it (the dm-crypt device
	// when there is one).
	Device Device
	// Required is what the volume must hold; zero: whatever the device has. A
	// device that is smaller is an error of kind Deadline: it has not grown
	// yet. A filesystem that can never be that large is OutOfRange.
	Required volume.Size
}

// Method is how a filesystem was grown.
type Method string

// The methods.
const (
	MethodNone  Method = "none"  // it filled the device already
	MethodIoctl Method = "ioctl" // by the kernel's ioctl
	MethodTool  Method = "tool"  // by resize2fs, xfs_growfs or btrfs
)

// Growth is what Grow did, every size read back.
type Growth struct {
	Type       Type
	Before     volume.Size // of the filesystem
	After      volume.Size
	DeviceSize volume.Size
	Method     Method
}

// Grow makes the filesystem fill its device, online, and returns its size as
// read back afterwards. It compares first: a filesystem that fills its device
// is left alone. A tail too short to be used (below one ext group's own
// metadata; below 64 XFS blocks; below one block) counts as filled.
//
// Everything that the kernel would answer by damage, by a crash, or by an
// errno that does not tell the cause is refused before the request, with its
// remedy. The kinds:
//
//   - Precondition: nothing or another device is mounted there; the
//     filesystem is larger than its device (XFS and btrfs would shrink); it or
//     its mount is read-only; ext has sparse_super2; the filesystem has shut
//     down or become read-only by an error, or is ext with errors flagged, even
//     when it fills its device: a growth that failed half-way looks like that.
//   - Precondition as well: no space or an I/O error during the growth: the
//     storage below may be full.
//   - OutOfRange: the format cannot hold Required (ext without 64bit ends at
//     2^32 blocks, which the kernel does not check; ext at 2^32 inodes).
//   - Precondition as well: the process lacks CAP_SYS_RESOURCE (ext). It is
//     not Denied, because kubelet keeps a pod from starting over that, and
//     the pod can do without the growth.
//   - Deadline, Canceled: the device has not reached Required; another growth
//     of the filesystem did not end within ctx.
//   - Internal: the kernel accepted the request but the size read back does
//     not show it; an errno without a known cause.
//
// The growth itself cannot be interrupted: once the kernel works on it (or
// waits for a frozen filesystem to be thawed), Grow returns only with the
// kernel's answer, however long ago ctx ended. Run it apart from an RPC, and
// keep the volume's lock until it returns. The pauses between tries obey ctx.
func (s *System) Grow(ctx context.Context, req GrowRequest) (Growth, error) {
	t, err := s.openMounted(req.Device, req.MountPoint)
	if err != nil {
		return Growth{}, err
	}
	defer t.close()
	g, err := t.newGrower()
	if err != nil {
		return Growth{}, err
	}
	growth, err := s.grow(ctx, t, g, req)
	if err == nil && growth.Method != MethodNone {
		s.log.InfoContext(ctx, "filesystem grown", "device", req.Device.Path(), "type", growth.Type, "before", growth.Before.String(),
			"after", growth.After.String(), "deviceSize", growth.DeviceSize.String(), "method", string(growth.Method))
	}
	return growth, err
}

func (s *System) grow(ctx context.Context, t *mountedFilesystem, g grower, req GrowRequest) (Growth, error) {
	device, err := sizeOf(t.device)
	if err != nil {
		return Growth{}, err
	}
	now, err := g.readGeometry(ctx)
	if err != nil {
		return Growth{}, err
	}
	growth := Growth{Type: now.Type, Before: now.Size(), After: now.Size(), DeviceSize: device, Method: MethodNone}
	goal := g.goal(device)
	if err := checkSizes(req, now, goal, device); err != nil {
		return growth, err
	}
	if err := g.checkHealth(); err != nil {
		return growth, err
	}
	if now.Blocks >= goal.full {
		return growth, nil
	}
	if err := t.checkWritable(now, device); err != nil {
		return growth, err
	}
	if err := g.checkGrowable(); err != nil {
		return growth, err
	}
	growth.Method, err = s.resizeUntilDone(ctx, t, g, goal)
	if err != nil {
		return growth, err
	}
	return verifyGrowth(ctx, t, g, goal, growth)
}

// verifyGrowth completes the growth by what counts: size and state of the
// filesystem now, whatever the answers were. It must not fail just because
// the growth took all the time there was.
func verifyGrowth(ctx context.Context, t *mountedFilesystem, g grower, goal goal, growth Growth) (Growth, error) {
	now, err := g.readGeometry(context.WithoutCancel(ctx))
	if err != nil {
		return growth, err
	}
	growth.After = now.Size()
	if err := t.readMountEntry(); err != nil { // the mount table says whether it is still alive
		return growth, err
	}
	if err := g.checkHealth(); err != nil {
		return growth, err
	}
	if now.Blocks < goal.minResult {
		return growth, volume.Errorf(volume.KindInternal, "the kernel accepted the growth of the %s at %s to %s, but it reads back %s (before: %s; device: %s)",
			now.Type, t.mountPoint, sizeOfBlocks(goal.blocks, now), growth.After, growth.Before, growth.DeviceSize).
			WithRemedy("look at the kernel log of this node")
	}
	return growth, nil
}

// checkSizes refuses what the sizes alone rule out.
func checkSizes(req GrowRequest, now Geometry, goal goal, device volume.Size) error {
	switch {
	case device < req.Required:
		return volume.Errorf(volume.KindDeadline, "the device %s has %s, not yet the required %s", req.Device.Path(), device, req.Required).
			WithRemedy("it is tried again; if this lasts, check that the storage system has told this node the new size")
	case now.Size() > device:
		return volume.Errorf(volume.KindPrecondition, "the %s at %s has %s, more than its device %s with %s: growing it could cut it off",
			now.Type, req.MountPoint, now.Size(), req.Device.Path(), device).
			WithRemedy("do not write to the volume; enlarge it to at least " + now.Size().String() + ", or restore it from a snapshot")
	case goal.limit != nil && req.Required > goal.limit.size:
		return volume.Errorf(volume.KindOutOfRange, "the %s at %s can grow to %s at most, not to %s: %s",
			now.Type, req.MountPoint, goal.limit.size, req.Required, goal.limit.reason).
			WithRemedy("ask for at most " + goal.limit.size.String() + ", or copy the data to a new volume (ext4 or xfs)")
	}
	return nil
}

func sizeOfBlocks(blocks uint64, g Geometry) volume.Size {
	return Geometry{BlockSize: g.BlockSize, Blocks: blocks}.Size()
}

// checkWritable refuses a growth that needs writing where nothing can be written.
func (f *mountedFilesystem) checkWritable(now Geometry, device volume.Size) error {
	if !f.isReadOnly {
		return nil
	}
	e := volume.Errorf(volume.KindPrecondition, "the %s at %s has %s of %s and cannot grow: it is read-only", now.Type, f.mountPoint, now.Size(), device)
	if f.entry.IsReadOnly() && !f.entry.IsFilesystemReadOnly() {
		return e.WithRemedy("the mount is read-only, not the filesystem: grow it through a writable mount of it")
	}
	return e.WithRemedy("mount the volume writable: it grows at that moment")
}

// The pauses between tries while another growth is under way.
const maxRetryInterval = time.Second

// resizeUntilDone makes the request until the kernel has answered it, and falls back
// to the tool where the kernel does not know the ioctl. Method is GrownNot
// when somebody else's growth reached the goal.
func (s *System) resizeUntilDone(ctx context.Context, t *mountedFilesystem, g grower, goal goal) (Method, error) {
	if err := ctx.Err(); err != nil {
		return MethodNone, volume.Wrap(err, "grow the filesystem at "+t.mountPoint+": not begun", "")
	}
	for pause := s.retryInterval; ; pause = min(2*pause, maxRetryInterval) {
		err := g.resize(goal.blocks)
		switch {
		case err == nil:
			return MethodIoctl, nil
		case errors.Is(err, unix.ENOTTY), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS):
			return MethodTool, s.growByTool(ctx, g.toolCommand(goal.blocks), err)
		case !g.isBusy(err) && !errors.Is(err, unix.EINTR):
			return MethodNone, g.explainError(ctx, err)
		}
		waited := operation.Sleep(ctx, pause)
		now, readErr := g.readGeometry(context.WithoutCancel(ctx))
		switch {
		case readErr != nil:
			return MethodNone, readErr
		case now.Blocks >= goal.minResult:
			return MethodNone, nil
		case waited != nil:
			return MethodNone, &volume.Error{
				Kind: volume.KindOf(waited), Cause: err, Remedy: "it is tried again",
				Msg: fmt.Sprintf("the %s at %s has %s and is still being grown by another request", now.Type, t.mountPoint, now.Size()),
			}
		}
	}
}

// growByTool runs the filesystem's own tool where the kernel has no ioctl.
func (s *System) growByTool(ctx context.Context, command []string, cause error) error {
	output, code, err := s.run(ctx, command[0], command[1:]...)
	switch {
	case err != nil:
		return volume.Wrap(err, "grow by "+command[0]+", as the kernel has no request for it ("+cause.Error()+")", "")
	case code != 0 && isInUse(output):
		return volume.Errorf(volume.KindDeadline, "%s did not grow the filesystem, which is in use by another request (exit status %d): %s", command[0], code, output).
			WithRemedy("Kubernetes retries this automatically")
	case code != 0:
		return volume.Errorf(volume.KindPrecondition, "the kernel of this node cannot grow this filesystem online (%w), nor can %s (exit status %d): %s",
			cause, command[0], code, output).
			WithRemedy("stop the pods that use the volume: it is grown when it is mounted again on a node that can")
	}
	return nil
}
