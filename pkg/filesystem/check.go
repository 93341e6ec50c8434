package filesystem

import (
	"context"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
)

// Check makes an unmounted ext filesystem fit to be mounted writable: "e2fsck -p" replays
// the journal and repairs what is safe to repair. Check does nothing for XFS and btrfs,
// which the kernel recovers at the mount, and for a device that is mounted as ext
// already. An e2fsck that is too old for a feature of the filesystem checks nothing;
// Check logs that and succeeds, and the kernel decides at the mount.
//
// e2fsck is killed when ctx ends, which does no harm, and starts over at the next call. It
// takes minutes on a large filesystem with many files: give Check a context that outlives
// one RPC.
//
// Kinds: Precondition (damage that needs a person), Deadline (the device is still in use,
// or ctx ended), Canceled, Internal (the device cannot be read, or e2fsck could not run,
// so nothing is known about the filesystem).
func (s *System) Check(ctx context.Context, dev Device, t Type) error {
	if !t.IsExt() {
		return nil
	}
	mounts, err := s.MountsOf(ctx, dev.Number())
	if err != nil {
		return err
	}
	for _, m := range mounts {
		if Type(m.FSType).IsExt() {
			return nil
		}
	}
	if err := dev.CheckPath(); err != nil {
		return err
	}
	device := dev.Path()
	output, code, err := s.run(ctx, "e2fsck", "-p", device)
	hasFailed := code&e2fsckOperationalError != 0
	switch {
	case err != nil:
		return stoppedCheckError(device, err)
	case hasFailed && isTooOld(output):
		s.log.WarnContext(ctx, "the filesystem was not checked: e2fsck is too old for it",
			"device", device, "type", t, "output", output)
	case hasFailed && isInUse(output):
		return volume.Errorf(volume.KindDeadline, "device %s is still in use, so e2fsck did not check it: %s",
			device, output).
			WithRemedy(blockdev.InUseRemedy(device))
	case code&(e2fsckOperationalError|e2fsckUncorrected) != 0 && isTransient(output), code&e2fsckNotRun != 0:
		return volume.Errorf(volume.KindInternal, "e2fsck -p cannot check %s (exit status %d): %s", device, code, output).
			WithRemedy("check the kernel log of this node, that the volume is still attached to it, " +
				"and that it has free memory")
	case hasFailed:
		return volume.Errorf(volume.KindPrecondition, "e2fsck -p cannot check %s (exit status %d): %s",
			device, code, output).
			WithRemedy("check the kernel log of this node; while the volume is not in use, run: e2fsck -n " + device)
	case code&e2fsckUncorrected != 0:
		return volume.Errorf(volume.KindPrecondition,
			"e2fsck -p found damage on %s that it does not repair by itself (exit status %d): %s", device, code, output).
			WithRemedy("take a snapshot of the volume; then, while it is not in use, run by hand: e2fsck -f " + device)
	case code != 0:
		s.log.InfoContext(ctx, "repaired a filesystem", "device", device, "type", t, "output", output)
	}
	return nil
}

// The bits of e2fsck's exit status (e2fsck(8)) that stand for a failure. The others are 1
// (errors were corrected) and 2 (reboot, which concerns the root filesystem only).
const (
	e2fsckUncorrected      = 4             // errors were left
	e2fsckOperationalError = 8             // the check itself was not possible
	e2fsckNotRun           = 16 | 32 | 128 // usage error, canceled by the user, shared library error
)

// stoppedCheckError is the error for an e2fsck that did not exit by itself.
func stoppedCheckError(device string, err error) error {
	e := &volume.Error{Kind: volume.KindOf(err), Msg: "cannot check " + device, Cause: err}
	if isContextError(err) {
		e.Remedy = "no action needed: Kubernetes retries this automatically, and the check starts over"
	}
	return e
}

// isTooOld reports whether e2fsck has refused a filesystem for a feature or a revision
// that a later version knows.
func isTooOld(output string) bool {
	return containsAny(output, "unsupported feature", "newer version of e2fsck", "revision too high")
}

// isTransient reports whether e2fsck failed for a cause that can pass: the device was
// removed or could not be read or written (its connection can come back), or memory was
// short.
func isTransient(output string) bool {
	return containsAny(output, "no such file or directory", "no such device",
		"input/output error", "short read", "short write",
		"cannot allocate memory", "memory allocation failed")
}
