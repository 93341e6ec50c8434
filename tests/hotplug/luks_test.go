package hotplug

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/growvol/growvol/pkg/cindercsi"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/must"
	"github.com/growvol/growvol/tests/vm"
)

// passphrase is that of every encrypted volume of these tests.
const passphrase = "correct horse battery staple"

// A LUKS2 mapping that an administrator made in the guest grows with its disk, and
// the filesystem with the mapping.
func TestExpandGrowsThroughLUKSInTheGuest(t *testing.T) {
	for _, fstype := range []string{"ext4", "xfs"} {
		t.Run(fstype, func(t *testing.T) {
			t.Parallel()
			d := plugVolume(t, vm.VirtioBlk, csiclient.MountCapability(fstype))
			mapping := "luks-" + d.name
			device := d.findDevice(t)
			sh(t, fmt.Sprintf("printf %%s %q > /tmp/key-%s", passphrase, d.name))
			key := "--key-file=/tmp/key-" + d.name
			sh(t, "cryptsetup luksFormat --batch-mode --type=luks2 --pbkdf=pbkdf2 --pbkdf-force-iterations=1000 "+key+" "+device)
			sh(t, "cryptsetup open "+key+" "+device+" "+mapping)
			sh(t, fmt.Sprintf("mkfs.%[1]s -q /dev/mapper/%[2]s && mkdir -p %[3]s && mount -t %[1]s /dev/mapper/%[2]s %[3]s",
				fstype, mapping, d.Staging))
			must.Succeed(t, d.publish(t))
			w := d.startWriter(t)

			d.grow(t, 2*gib)
			_, err := d.expand(t, 2*gib)
			must.FailWith(t, err, codes.FailedPrecondition, "passphrase", "next step")
			d.Secrets = map[string]string{"passphrase": "wrong"}
			_, err = d.expand(t, 2*gib)
			must.FailWith(t, err, codes.FailedPrecondition, "passphrase")
			d.Secrets["passphrase"] = passphrase
			d.mustExpand(t, 2*gib, 2*gib)
			d.wantDF(t, 2*gib)
			d.growDuringExpand(t, 3*gib)
			d.wantDF(t, 3*gib)
			d.Secrets = nil
			d.mustExpand(t, 3*gib, 3*gib) // needs no key: nothing has to grow

			w.stop(t)
			must.Succeed(t, d.unpublish(t))
			sh(t, "umount "+d.Staging)
			checkFilesystem(t, fstype, "/dev/mapper/"+mapping, 3*gib-16*mib)
			sh(t, "mount -t "+fstype+" /dev/mapper/"+mapping+" "+d.Staging)
			t.Log(w.verify(t, d.Staging))
			sh(t, "umount "+d.Staging+" && cryptsetup close "+mapping+" && rm /tmp/key-"+d.name)
		})
	}
}

// The hypervisor encrypts the disk, so that the guest's disk is smaller than the
// volume by the header and shows random data while it is blank. One case is LUKS1
// in QEMU, the other a plain disk that is smaller by a LUKS2 header.
func TestExpandOnDisksTheHypervisorEncrypts(t *testing.T) {
	for name, header := range map[string]volume.Size{"LUKS1 of QEMU": vm.LUKSHeaderSize, "16 MiB": 16 * mib} {
		for _, fstype := range []string{"ext4", "xfs"} {
			t.Run(name+"/"+fstype, func(t *testing.T) {
				t.Parallel()
				d := newVolume(t, newID(), csiclient.MountCapability(fstype))
				d.PublishContext[cindercsi.ContextEncrypted] = "true"
				d.PublishContext[cindercsi.ContextSize] = fmt.Sprint(gib.Bytes())
				byQEMU := header == vm.LUKSHeaderSize
				// diskSize returns the size of the machine's disk for a volume's size.
				diskSize := func(size volume.Size) volume.Size {
					if byQEMU {
						return size
					}
					return size - header
				}
				d.plug(t, vm.Disk{Bus: vm.VirtioBlk, Size: diskSize(gib), Encrypted: byQEMU})
				d.stageAndPublish(t)
				device := d.findDevice(t)
				if got := d.deviceSize(t); got != gib-header {
					t.Fatalf("got a disk of %s, want %s", got, gib-header)
				}
				w := d.startWriter(t)

				// A disk that has not grown is more than a header too small.
				_, err := d.expandWithin(t, 2*gib, 6*time.Second)
				must.FailWith(t, err, codes.DeadlineExceeded, d.ID, "2 GiB", "next step")
				d.wantDF(t, gib)

				d.grow(t, diskSize(2*gib))
				if got, err := d.expand(t, 2*gib); err != nil || got < 2*gib-32*mib || got > 2*gib {
					t.Fatalf("expand to 2 GiB: got %s, %v", got, err)
				}
				d.wantDF(t, 2*gib)
				w.stop(t)
				d.unpublishAndUnstage(t)
				checkFilesystem(t, fstype, device, 2*gib-header)
				d.PublishContext[cindercsi.ContextSize] = fmt.Sprint((2 * gib).Bytes())
				d.stageAndPublish(t)
				t.Log(w.verify(t, d.Target))
			})
		}
	}
}

// A disk with unknown data is not formatted, unless the publish context reports that
// the hypervisor encrypts the volume.
func TestStageDoesNotFormatUnknownData(t *testing.T) {
	t.Parallel()
	d := newVolume(t, newID(), csiclient.MountCapability("ext4"))
	d.plug(t, vm.Disk{Bus: vm.VirtioBlk, Size: gib, Encrypted: true})
	err := d.stageWithin(t, 30*time.Second)
	must.FailWith(t, err, codes.FailedPrecondition, d.ID, "not blank", "next step")
	if strings.Contains(sh(t, "blkid "+d.findDevice(t)+"; true"), "TYPE") {
		t.Error("got a filesystem on the disk, want none")
	}
}
