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

const passphrase = "correct horse battery staple"

// A LUKS2 mapping in the guest on a disk that is plugged in: it grows with the
// disk, and the filesystem with it. The mapping is made by hand, as an
// administrator would.
func TestExpandGrowsThroughLUKSInTheGuest(t *testing.T) {
	for _, fstype := range []string{"ext4", "xfs"} {
		t.Run(fstype, func(t *testing.T) {
			t.Parallel()
			d := plugVolume(t, vm.VirtioBlk, csiclient.MountCapability(fstype))
			mapping := "luks-" + d.name
			device := d.findDevice(t)
			sh(t, fmt.Sprintf("printf %%s %q > /tmp/key-%s", passphrase, d.name))
			key := "--key-file=/tmp/key-" + d.name
			sh(t, "cryptsetup luksFormat --batch-mode --type=luks2 --pbkdf=pbkdf2 --pbkdf-force-iterations=1000 "+key+" "+device+" && cryptsetup open "+key+" "+device+" "+mapping)
			sh(t, fmt.Sprintf("mkfs.%s -q /dev/mapper/%s && mkdir -p %s && mount -t %s /dev/mapper/%s %s", fstype, mapping, d.Staging, fstype, mapping, d.Staging))
			must.Succeed(t, callWithTimeout(t, machine.driver.Publish, d))
			w := d.startWriter(t)

			d.grow(t, 2*gib)
			_, err := d.expand(t, 2*gib)
			must.FailWith(t, err, codes.FailedPrecondition, "passphrase", "next step")
			d.Secrets = map[string]string{"passphrase": "wrong"}
			_, err = d.expand(t, 2*gib)
			must.FailWith(t, err, codes.FailedPrecondition, "passphrase")
			d.Secrets["passphrase"] = passphrase
			if n, err := d.expand(t, 2*gib); err != nil || n != 2*gib {
				t.Fatalf("%s, %v", n, err)
			}
			d.wantDF(t, 2*gib)
			d.growDuringExpand(t, 3*gib)
			d.wantDF(t, 3*gib)
			d.Secrets = nil
			if _, err := d.expand(t, 3*gib); err != nil { // nothing to do, no key
				t.Error(err)
			}

			w.stop(t)
			must.Succeed(t, callWithTimeout(t, machine.driver.Unpublish, d))
			sh(t, "umount "+d.Staging)
			checkFilesystem(t, fstype, "/dev/mapper/"+mapping, 3*gib-16*mib)
			sh(t, "mount -t "+fstype+" /dev/mapper/"+mapping+" "+d.Staging)
			t.Log(w.verify(t, d.Staging))
			sh(t, "umount "+d.Staging+" && cryptsetup close "+mapping+" && rm /tmp/key-"+d.name)
		})
	}
}

// The hypervisor encrypts: the guest's disk lacks the header and, blank, reads
// as noise. Real LUKS in QEMU, and a disk that lacks as much as LUKS2 takes.
func TestExpandOnDisksTheHypervisorEncrypts(t *testing.T) {
	for name, header := range map[string]volume.Size{"LUKS1 of QEMU": vm.LUKSHeaderSize, "16 MiB": 16 * mib} {
		for _, fstype := range []string{"ext4", "xfs"} {
			t.Run(name+"/"+fstype, func(t *testing.T) {
				t.Parallel()
				d := newVolume(t, newID(), csiclient.MountCapability(fstype))
				d.PublishContext[cindercsi.ContextEncrypted] = "true"
				d.PublishContext[cindercsi.ContextSize] = fmt.Sprint(gib.Bytes())
				qemu := header == vm.LUKSHeaderSize
				// grown is what the machine has to make of the disk.
				grown := func(size volume.Size) volume.Size {
					if qemu {
						return size
					}
					return size - header
				}
				d.plug(t, vm.Disk{Bus: vm.VirtioBlk, Size: grown(gib), Encrypted: qemu})
				d.stageAndPublish(t)
				device := d.findDevice(t)
				if got := d.deviceSize(t); got != gib-header {
					t.Fatalf("the disk has %s: this is not the case to be tested", got)
				}
				w := d.startWriter(t)

				// The header does not excuse a disk that has not grown.
				_, err := d.expandWithin(t, 2*gib, 6*time.Second)
				must.FailWith(t, err, codes.DeadlineExceeded, d.ID, "2 GiB", "next step")
				d.wantDF(t, gib)

				d.grow(t, grown(2*gib))
				if n, err := d.expand(t, 2*gib); err != nil || n < 2*gib-32*mib || n > 2*gib {
					t.Fatalf("%s, %v", n, err)
				}
				d.wantDF(t, 2*gib)
				w.stop(t)
				d.unstage(t)
				checkFilesystem(t, fstype, device, 2*gib-header)
				d.PublishContext[cindercsi.ContextSize] = fmt.Sprint((2 * gib).Bytes())
				d.stageAndPublish(t)
				t.Log(w.verify(t, d.Target))
			})
		}
	}
}

// Without the hypervisor's encryption, noise is somebody's data.
func TestStageDoesNotFormatUnknownData(t *testing.T) {
	t.Parallel()
	d := newVolume(t, newID(), csiclient.MountCapability("ext4"))
	d.plug(t, vm.Disk{Bus: vm.VirtioBlk, Size: gib, Encrypted: true})
	err := d.stageWithin(t, 30*time.Second)
	must.FailWith(t, err, codes.FailedPrecondition, d.ID, "not blank", "next step")
	if strings.Contains(sh(t, "blkid "+d.findDevice(t)+"; true"), "TYPE") {
		t.Error("formatted")
	}
}
