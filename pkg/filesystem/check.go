package filesystem

import (
	"context"

	"github.com/growvol/growvol/pkg/volume"
)

// Exit status of e2fsck, a sum of bits (e2fsck(8)).
const (
	e2fsckCorrected = 1
	e2fsckReboot    = 2 // only means anything for the root filesystem
)

// Check makes an unmounted filesystem fit to be mounted writable: ext by
// "e2fsck -p", which replays the journal and repairs what is safe to repair.
// XFS and btrfs recover when they are mounted; for them, and for a device
// that is mounted already, there is nothing to do.
//
// Kinds: Precondition (damage that needs a person), Deadline, Canceled.
func (s *System) Check(ctx context.Context, device string, t Type) error {
	if !t.Ext() {
		return nil
	}
	mounts, err := s.MountsOf(device)
	if err != nil {
		return err
	}
	for _, m := range mounts {
		if m.FSType == string(Ext2) || m.FSType == string(Ext3) || m.FSType == string(Ext4) {
			return nil
		}
	}
	output, code, err := s.run(ctx, "e2fsck", "-p", device)
	switch {
	case err != nil:
		return volume.Wrap(err, "check "+device, "")
	case code&^(e2fsckCorrected|e2fsckReboot) != 0:
		return volume.Errorf(volume.Precondition, "e2fsck -p found damage on %s that it does not repair by itself (exit status %d): %s", device, code, output).
			WithRemedy("run e2fsck -f " + device + " by hand while the volume is not in use, after a snapshot of it")
	case code != 0:
		s.log.InfoContext(ctx, "repaired", "device", device, "type", t, "output", output)
	}
	return nil
}
