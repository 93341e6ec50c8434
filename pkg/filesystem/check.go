package filesystem

import (
	"context"
	"strings"

	"github.com/growvol/growvol/pkg/volume"
)

// Exit status of e2fsck, a sum of bits (e2fsck(8)).
const (
	e2fsckCorrected = 1
	e2fsckReboot    = 2 // only means anything for the root filesystem
	e2fsckOperation = 8 // the check itself was not possible
)

// Check makes an unmounted filesystem fit to be mounted writable: ext by
// "e2fsck -p", which replays the journal and repairs what is safe to repair.
// XFS and btrfs recover when they are mounted; for them, and for a device
// that is mounted already, there is nothing to do.
//
// e2fsck is killed when ctx ends, which does no harm: the next one starts over.
// That takes minutes on a large filesystem with many files; give it a context
// that outlives one RPC.
//
// Kinds: Precondition (damage that needs a person), Deadline (the device is
// still in use, or ctx ended), Canceled.
func (s *System) Check(ctx context.Context, dev Device, t Type) error {
	if !t.Ext() {
		return nil
	}
	mounts, err := s.MountsOf(ctx, dev.Number())
	if err != nil {
		return err
	}
	for _, m := range mounts {
		if m.FSType == string(Ext2) || m.FSType == string(Ext3) || m.FSType == string(Ext4) {
			return nil
		}
	}
	if err := s.checkPath(dev); err != nil {
		return err
	}
	device := dev.Path()
	output, code, err := s.run(ctx, "e2fsck", "-p", device)
	switch {
	case err != nil:
		return checkError(device, err)
	case code&e2fsckOperation != 0 && inUse(output):
		return volume.Errorf(volume.Deadline, "device %s is still in use, so e2fsck did not look at it: %s", device, output).
			WithRemedy("it is tried again; if this lasts, find what holds the device on this node (lsblk, fuser)")
	case code&e2fsckOperation != 0:
		return volume.Errorf(volume.Precondition, "e2fsck -p could not check %s (exit status %d): %s", device, code, output).
			WithRemedy("the kernel log of this node may name the cause; while the volume is not in use, look at it with e2fsck -n " + device)
	case code&^(e2fsckCorrected|e2fsckReboot) != 0:
		return volume.Errorf(volume.Precondition, "e2fsck -p found damage on %s that it does not repair by itself (exit status %d): %s", device, code, output).
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

// inUse tells whether a tool of e2fsprogs, xfsprogs or btrfs-progs has refused
// a device because somebody has it open exclusively, or mounted.
func inUse(output string) bool {
	for _, text := range []string{"is in use", "in use by the system", "is mounted", "mounted filesystem", "is busy", "resource busy"} {
		if strings.Contains(strings.ToLower(output), text) {
			return true
		}
	}
	return false
}
