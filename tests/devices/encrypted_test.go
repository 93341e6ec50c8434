package devices

import (
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/growvol/growvol/pkg/luks"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/co"
	"github.com/growvol/growvol/tests/vm"
)

// plugEncrypted is plug of a volume that the node encrypts.
func plugEncrypted(t *testing.T, fstype string) *disk {
	t.Helper()
	d := plug(t, vm.VirtioBlk, co.Mount(fstype))
	d.Context = map[string]string{volume.EncryptedKey: "true"}
	d.Secrets = map[string]string{"passphrase": passphrase}
	return d
}

// An encrypted volume on a disk that is plugged in: it grows with the disk
// under a writer, without the passphrase, and is there again at the next
// stage.
func TestEncryptedGrowthInUse(t *testing.T) {
	for _, fstype := range []string{"ext4", "xfs"} {
		t.Run(fstype, func(t *testing.T) {
			t.Parallel()
			d := plugEncrypted(t, fstype)
			d.use(t)
			d.wantDF(t, gib)
			w := d.startWriter(t)
			d.Secrets = nil
			d.grow(t, 2*gib)
			if n, err := d.expand(t, 2*gib); err != nil || n != 2*gib {
				t.Fatalf("%s, %v", n, err)
			}
			d.wantDF(t, 2*gib)
			d.growDuring(t, 3*gib)
			d.wantDF(t, 3*gib)
			w.stop(t)
			must(t, call(t, machine.driver.Unpublish, d))
			mapping := "/dev/mapper/" + luks.MappingName(d.ID)
			sh(t, "umount "+d.Staging)
			check(t, fstype, mapping, 3*gib-luks.DataOffset)
			must(t, call(t, machine.driver.Unstage, d))
			sh(t, "! test -e "+mapping)
			wantCode(t, d.stage(t), codes.InvalidArgument, "passphrase")
			d.Secrets = map[string]string{"passphrase": passphrase}
			d.use(t)
			t.Log(w.verify(t, d.Target))
		})
	}
}

// A disk that is taken away below its mapping and mount: unstage takes both
// away, and the volume can be used again.
func TestUnstageOfAnEncryptedVolumeWhoseDiskIsGone(t *testing.T) {
	for _, fstype := range []string{"ext4", "xfs"} {
		t.Run(fstype, func(t *testing.T) {
			t.Parallel()
			d := plugEncrypted(t, fstype)
			d.use(t)
			d.path(t)
			d.unplug(t)
			d.unuse(t)
			must(t, call(t, machine.driver.Unstage, d))
			sh(t, "! test -e /dev/mapper/"+luks.MappingName(d.ID))
		})
	}
}
