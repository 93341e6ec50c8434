package filesystem

import (
	"context"
	"slices"
	"strings"

	"github.com/growvol/growvol/pkg/volume"
)

// Exit status of e2fsck, a sum of bits (e2fsck(8)).
const (
	e2fsckUncorrected = 4
	e2fsckOperation   = 8 // the check itself was not possible
	// The others that can be: 1, errors were corrected; 2, a reboot is needed,
	// which only means anything for the root filesystem; 16, 32 and 128, the
	// program was called in a wrong way, stopped, or could not run.
	e2fsckNotRun = 16 | 32 | 128
)

// Check makes an unmounted filesystem fit to be mounted writable: ext by
// "e2fsck -p", which replays the journal and repairs what is safe to repair.
// XFS and btrfs recover when they are mounted; for them, and for a device
// that is mounted already, there is nothing to do. An e2fsck that is too old
// for the filesystem has checked nothing: that is logged, and the kernel
// decides when it mounts it.
//
// e2fsck is killed when ctx ends, which does no harm: the next one starts over.
// That takes minutes on a large filesystem with many files; give it a context
// that outlives one RPC.
//
// Kinds: Precondition (damage that needs a person), Deadline (the device is
// still in use, or ctx ended), Canceled, Internal (nothing is known: the device
// cannot be read, or e2fsck could not run).
func (s *System) Check(ctx context.Context, dev Device, t Type) error {
	if !t.IsExt() {
		return nil
	}
	mounts, err := s.MountsOf(ctx, dev.Number())
	if err != nil {
		return err
	}
	for _, m := range mounts {
		if m.FSType == string(TypeExt2) || m.FSType == string(TypeExt3) || m.FSType == string(TypeExt4) {
			return nil
		}
	}
	if err := dev.CheckPath(); err != nil {
		return err
	}
	device := dev.Path()
	output, code, err := s.run(ctx, "e2fsck", "-p", device)
	switch {
	case err != nil:
		return checkError(device, err)
	case code&e2fsckOperation != 0 && isTooOld(output):
		s.log.WarnContext(ctx, "the filesystem is not checked: e2fsck is too old for it",
			"device", device, "type", t, "output", output)
	case code&e2fsckOperation != 0 && isInUse(output):
		return volume.Errorf(volume.KindDeadline, "device %s is still in use, so e2fsck did not look at it: %s", device, output).
			WithRemedy(inUseRemedy)
	case code&(e2fsckOperation|e2fsckUncorrected) != 0 && isTransient(output), code&e2fsckNotRun != 0:
		return volume.Errorf(volume.KindInternal, "e2fsck -p could not check %s (exit status %d): %s", device, code, output).
			WithRemedy("check that the volume is still attached to this node and can be read (kernel log of the node), " +
				"and that the node has memory left")
	case code&e2fsckOperation != 0:
		return volume.Errorf(volume.KindPrecondition, "e2fsck -p could not check %s (exit status %d): %s", device, code, output).
			WithRemedy("the kernel log of this node may name the cause; " +
				"while the volume is not in use, look at it with e2fsck -n " + device)
	case code&e2fsckUncorrected != 0:
		return volume.Errorf(volume.KindPrecondition,
			"e2fsck -p found damage on %s that it does not repair by itself (exit status %d): %s", device, code, output).
			WithRemedy("run e2fsck -f " + device + " by hand while the volume is not in use, after a snapshot of it")
	case code != 0:
		s.log.InfoContext(ctx, "repaired", "device", device, "type", t, "output", output)
	}
	return nil
}

// checkError reports an e2fsck that did not come to an end.
func checkError(device string, err error) error {
	e := &volume.Error{Kind: volume.KindOf(err), Msg: "check " + device, Cause: err}
	if isContextError(err) {
		e.Remedy = "the check starts over at the next try; nothing was found to be damaged"
	}
	return e
}

// isTooOld reports whether e2fsck has refused a filesystem with a feature or a
// revision that a later version knows.
func isTooOld(output string) bool {
	return containsAny(output, "unsupported feature", "newer version of e2fsck", "revision too high")
}

// isTransient reports whether e2fsck failed over what may pass: a device that went
// away, a device that could not be read or written (the connection of a volume
// can come back), or a lack of memory.
func isTransient(output string) bool {
	return containsAny(output, "no such file or directory", "no such device",
		"input/output error", "short read", "short write",
		"cannot allocate memory", "memory allocation failed")
}

// inUseRemedy is the next step when something else uses the device.
const inUseRemedy = "Kubernetes retries this automatically; if it stays so, " +
	"find what uses the device on this node (lsblk, fuser)"

// isInUse tells whether a tool of e2fsprogs, xfsprogs or btrfs-progs has refused
// a device because somebody has it open exclusively, or mounted, or grows it.
func isInUse(output string) bool {
	return containsAny(output, "is in use", "in use by the system", "is mounted", "mounted filesystem", "is busy",
		"resource busy", "temporarily unavailable", "in progress")
}

// containsAny reports whether the output of a program has one of these texts.
func containsAny(output string, texts ...string) bool {
	output = strings.ToLower(output)
	return slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(output, text) })
}
