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

// plugEncryptedVolume is plug of a volume that the node encrypts.
func plugEncryptedVolume(t *testing.T, fstype string) *disk {
	t.Helper()
	d := plugVolume(t, vm.VirtioBlk, csiclient.MountCapability(fstype))
	d.VolumeContext = map[string]string{volume.EncryptedKey: "true"}
	d.Secrets = map[string]string{"passphrase": passphrase}
	return d
}

// An encrypted volume on a disk that is plugged in: it grows with the disk
// under a writer, without the passphrase, and is there again at the next
// stage.
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
			if n, err := d.expand(t, 2*gib); err != nil || n != 2*gib {
				t.Fatalf("%s, %v", n, err)
			}
			d.wantDF(t, 2*gib)
			d.growDuringExpand(t, 3*gib)
			d.wantDF(t, 3*gib)
			w.stop(t)
			must.Succeed(t, callWithTimeout(t, machine.driver.Unpublish, d))
			mapping := "/dev/mapper/" + luks.MappingName(d.ID)
			sh(t, "umount "+d.Staging)
			checkFilesystem(t, fstype, mapping, 3*gib-luks.DataOffset)
			must.Succeed(t, callWithTimeout(t, machine.driver.Unstage, d))
			sh(t, "! test -e "+mapping)
			must.FailWith(t, d.stage(t), codes.InvalidArgument, "passphrase")
			d.Secrets = map[string]string{"passphrase": passphrase}
			d.stageAndPublish(t)
			t.Log(w.verify(t, d.Target))
		})
	}
}

// A disk that is taken away below its mapping and mount: unstage takes both
// away, and the volume can be used again.
func TestUnstageAfterTheEncryptedDiskIsUnplugged(t *testing.T) {
	for _, fstype := range []string{"ext4", "xfs"} {
		t.Run(fstype, func(t *testing.T) {
			t.Parallel()
			d := plugEncryptedVolume(t, fstype)
			d.stageAndPublish(t)
			d.findDevice(t)
			d.unplug(t)
			d.unstage(t)
			must.Succeed(t, callWithTimeout(t, machine.driver.Unstage, d))
			sh(t, "! test -e /dev/mapper/"+luks.MappingName(d.ID))
		})
	}
}
