package hotplug

import (
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/growvol/growvol/pkg/luks"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/must"
	"github.com/growvol/growvol/tests/vm"
)

// plugEncryptedVolume returns a new volume of 1 GiB that the node encrypts.
func plugEncryptedVolume(t *testing.T, fstype string) *disk {
	t.Helper()
	d := plugVolume(t, vm.VirtioBlk, csiclient.MountCapability(fstype))
	d.VolumeContext = map[string]string{volume.EncryptedKey: "true"}
	d.Secrets = map[string]string{"passphrase": passphrase}
	return d
}

// An encrypted volume grows with its disk under a writer, without the passphrase,
// and the next stage shows the same data.
func TestExpandEncryptedInUse(t *testing.T) {
	for _, fstype := range []string{"ext4", "xfs"} {
		t.Run(fstype, func(t *testing.T) {
			t.Parallel()
			d := plugEncryptedVolume(t, fstype)
			d.stageAndPublish(t)
			d.wantDF(t, gib)
			w := d.startWriter(t)
			d.Secrets = nil
			d.grow(t, 2*gib)
			d.mustExpand(t, 2*gib, 2*gib)
			d.wantDF(t, 2*gib)
			d.growDuringExpand(t, 3*gib)
			d.wantDF(t, 3*gib)
			w.stop(t)
			must.Succeed(t, d.unpublish(t))
			mapping := "/dev/mapper/" + luks.MappingName(d.ID)
			sh(t, "umount "+d.Staging)
			checkFilesystem(t, fstype, mapping, 3*gib-luks.DataOffset)
			must.Succeed(t, d.unstage(t))
			sh(t, "! test -e "+mapping)
			must.FailWith(t, d.stage(t), codes.InvalidArgument, "passphrase")
			d.Secrets = map[string]string{"passphrase": passphrase}
			d.stageAndPublish(t)
			t.Log(w.verify(t, d.Target))
		})
	}
}

// The disk of a staged encrypted volume is unplugged: unstage removes the mount and the
// mapping, and succeeds again when it is repeated.
func TestUnstageAfterTheEncryptedDiskIsUnplugged(t *testing.T) {
	for _, fstype := range []string{"ext4", "xfs"} {
		t.Run(fstype, func(t *testing.T) {
			t.Parallel()
			d := plugEncryptedVolume(t, fstype)
			d.stageAndPublish(t)
			d.findDevice(t)
			d.unplug(t)
			d.unpublishAndUnstage(t)
			must.Succeed(t, d.unstage(t))
			sh(t, "! test -e /dev/mapper/"+luks.MappingName(d.ID))
		})
	}
}
