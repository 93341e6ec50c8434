package hotplug

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/growvol/growvol/pkg/cindercsi"
	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/must"
	"github.com/growvol/growvol/tests/vm"
)

// writePattern writes a pattern over the first 4 MiB of a disk that no call may
// touch; wantUntouched compares.
func (d *disk) writePattern(t *testing.T) {
	t.Helper()
	sh(t, "yes "+d.ID+" | head -c 4194304 | dd of="+d.findDevice(t)+" bs=1M conv=fsync 2>&1")
	d.patternHash = d.hashStart(t)
}

// hashStart returns the hash of the disk's first 4 MiB.
func (d *disk) hashStart(t *testing.T) string {
	t.Helper()
	return sh(t, "head -c 4194304 "+d.findDevice(t)+" | sha256sum")
}

// wantUntouched fails the test if the pattern has changed.
func (d *disk) wantUntouched(t *testing.T) {
	t.Helper()
	if got := d.hashStart(t); d.patternHash == "" || got != d.patternHash {
		t.Errorf("the disk of %s has changed: got the hash %q, want %q", d.ID, got, d.patternHash)
	}
}

// wantBlank fails the test unless the disk's first 4 MiB, where every filesystem
// begins, are zeros.
func (d *disk) wantBlank(t *testing.T) {
	t.Helper()
	if got := sh(t, "head -c 4194304 "+d.findDevice(t)+" | tr -d '\\0' | wc -c"); got != "0" {
		t.Errorf("got %s bytes that are not zero at the start of the disk of %s, want 0", got, d.ID)
	}
}

// A link of udev that carries the volume's id but points to another disk is
// ignored: the serial that the disk itself reports decides.
func TestStageIgnoresLinksToOtherDisks(t *testing.T) {
	t.Parallel()
	d := plugVolume(t, vm.VirtioBlk, csiclient.MountCapability("ext4"))
	other := plugVolume(t, vm.VirtioBlk, csiclient.MountCapability("ext4"))
	missing := newVolume(t, newID(), csiclient.MountCapability("ext4"))
	other.writePattern(t)
	target, links := other.findDevice(t), ""
	for _, id := range []string{d.ID, missing.ID} {
		for _, name := range []string{
			"virtio-" + id, "virtio-" + id[:20], "scsi-0QEMU_QEMU_HARDDISK_" + id, "wwn-0x" + id,
		} {
			links += " /dev/disk/by-id/" + name
		}
	}
	sh(t, "mkdir -p /dev/disk/by-id && for l in "+links+"; do ln -s "+target+" $l; done")
	t.Cleanup(func() {
		remove := vm.Command{Argv: []string{"sh", "-c", "rm " + links}}
		if _, err := machine.Run(context.WithoutCancel(t.Context()), remove); err != nil {
			t.Error(err)
		}
	})
	d.stageAndPublish(t)
	if got := sh(t, "grep "+d.Staging+" /proc/mounts | cut -d' ' -f1"); got != d.findDevice(t) {
		t.Errorf("got %s staged, want the disk %s", got, d.findDevice(t))
	}
	// This volume has only the link, and no disk.
	err := missing.stageWithin(t, 20*time.Second)
	must.FailWith(t, err, codes.DeadlineExceeded, missing.ID, missing.ID[:20], other.ID[:20], "next step")
	other.wantUntouched(t)
}

// On a bus that shows 20 characters of the serial, two disks show the same ones.
// Nothing shows which of them is the volume, so stage refuses and touches none. The
// test runs alone: under load a disk may answer too late to be counted.
func TestStageRefusesAmbiguousSerials(t *testing.T) {
	id := newID()
	similarID := id[:len(id)-8] + "00000000"
	d := newVolume(t, id, csiclient.MountCapability("ext4"))
	other := newVolume(t, similarID, csiclient.MountCapability("ext4"))
	d.plug(t, vm.Disk{Bus: vm.VirtioBlk, Size: gib})
	other.plug(t, vm.Disk{Bus: vm.VirtioBlk, Size: gib})
	// grep ignores the disks of other tests that are unplugged meanwhile.
	list := "grep -l -s -x -F " + id[:20] + " /sys/block/vd*/serial"
	sh(t, "for i in $(seq 300); do [ $("+list+" | wc -l) = 2 ] && exit 0; sleep 0.1; done; exit 1")
	for _, v := range []*disk{d, other} {
		err := v.stageWithin(t, 30*time.Second)
		must.FailWith(t, err, codes.FailedPrecondition, v.ID, "several disks", "next step")
	}
	names := strings.Fields(sh(t, list+" | cut -d/ -f4"))
	if len(names) != 2 {
		t.Errorf("got the disks %q with the serial %s, want two", names, id[:20])
	}
	for _, name := range names {
		if got := sh(t, "head -c 1048576 /dev/"+name+" | tr -d '\\0' | wc -c"); got != "0" {
			t.Errorf("got %s bytes that are not zero at the start of %s, want 0", got, name)
		}
	}
	other.unplug(t)
	d.stageAndPublish(t)
	d.unpublishAndUnstage(t)
}

// On a bus that shows the whole serial, two volumes whose ids begin alike get their own
// disks, and an equal beginning alone is no match.
func TestStageComparesWholeSerials(t *testing.T) {
	t.Parallel()
	d := plugVolume(t, vm.VirtioSCSI, csiclient.MountCapability("xfs"))
	other := newVolume(t, d.ID[:len(d.ID)-8]+"00000000", csiclient.MountCapability("xfs"))
	must.FailWith(t, other.stageWithin(t, 20*time.Second), codes.DeadlineExceeded, other.ID, "next step")
	other.plug(t, vm.Disk{Bus: vm.VirtioSCSISilent, Size: 2 * gib})
	for _, v := range []*disk{d, other} {
		v.stageAndPublish(t)
		v.wantDF(t, v.size)
	}
}

// The disk is unplugged under a pod, and another volume's disk gets the same device
// number. The volume must not grow on that disk or touch it, and unpublish and unstage
// must succeed.
func TestExpandFailsWhenAnotherDiskTakesThePlace(t *testing.T) {
	for _, bus := range []vm.Bus{vm.VirtioBlk, vm.VirtioSCSI} {
		for _, kind := range []string{"ext4", "xfs", "block"} {
			// Not in parallel: the other disk must get the free device number.
			t.Run(string(bus)+"/"+kind, func(t *testing.T) {
				capability := csiclient.BlockCapability()
				if kind != "block" {
					capability = csiclient.MountCapability(kind)
				}
				d := plugVolume(t, bus, capability)
				d.stageAndPublish(t)
				device := d.findDevice(t)
				d.unplug(t)
				other := newVolume(t, newID(), csiclient.MountCapability("ext4"))
				other.plug(t, vm.Disk{Bus: bus, Size: 2 * gib})
				other.writePattern(t)
				// A mounted filesystem keeps its disk's name in use.
				if got := other.findDevice(t); got != device && kind == "block" {
					t.Errorf("got %s for the other disk, want the same name as before: %s", got, device)
				}

				_, err := d.expandWithin(t, 2*gib, 10*time.Second)
				if code := status.Code(err); code != codes.Internal && code != codes.FailedPrecondition {
					t.Errorf("expand: got code %s, want Internal or FailedPrecondition: %v", code, err)
				}
				if err == nil || !strings.Contains(err.Error(), d.ID) || !strings.Contains(err.Error(), "next step") {
					t.Errorf("the message contains no volume id or no next step: %v", err)
				}
				second := *d.Volume
				second.Target += "-2"
				if err := machine.driver.Publish(t.Context(), &second); err == nil {
					t.Error("publish for a second pod succeeded")
				}
				must.Succeed(t, d.unpublish(t))
				// The kernel reports a failed write-back once.
				if err := d.unstage(t); err != nil {
					t.Log(err)
					must.Succeed(t, d.unstage(t))
				}
				other.wantUntouched(t)
			})
		}
	}
}

// NodeExpandVolume with the id of one volume and the path of another fails, and
// neither volume grows by the call.
func TestExpandRefusesThePathOfAnotherVolume(t *testing.T) {
	t.Parallel()
	for _, capability := range []*csi.VolumeCapability{csiclient.MountCapability("ext4"), csiclient.BlockCapability()} {
		d, other := plugVolume(t, vm.VirtioBlk, capability), plugVolume(t, vm.VirtioSCSI, capability)
		for _, v := range []*disk{d, other} {
			v.stageAndPublish(t)
			v.grow(t, 2*gib)
		}
		crossed := *d.Volume
		crossed.Target, crossed.Staging = other.Target, other.Staging
		_, err := machine.driver.ExpandNode(t.Context(), &crossed, (2 * gib).Bytes())
		must.FailWith(t, err, codes.FailedPrecondition, d.ID, other.ID)
		if capability.GetBlock() == nil {
			// Each filesystem grows with its own disk, without a call.
			other.awaitDF(t, 2*gib, time.Minute)
			d.awaitDF(t, 2*gib, time.Minute)
		}
	}
}

// Every call fails for an id that no disk has, whatever its form. No call makes the
// plugin crash or touches another volume's disk.
func TestCallsRefuseShortAndOddIDs(t *testing.T) {
	t.Parallel()
	other := plugVolume(t, vm.VirtioSCSI, csiclient.BlockCapability())
	other.writePattern(t)
	full := newID()
	for _, id := range []string{
		"a", "vda", "*", "../../etc/passwd", "/dev/vda", "%s%n", "a\x00b\n", "日本語", full[:8], full[:19],
		other.ID[:8], other.ID[:20], other.ID + "0", strings.ToUpper(other.ID), strings.Repeat("x", 5000),
	} {
		d := newVolume(t, id, csiclient.MountCapability("ext4"))
		limited, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		stageErr := machine.driver.Stage(limited, d.Volume)
		cancel()
		for call, err := range map[string]error{
			"stage":   stageErr,
			"publish": d.publish(t),
			"expand":  func() error { _, err := d.expand(t, gib); return err }(),
			"stats":   func() error { _, _, err := machine.driver.Stats(t.Context(), d.Volume); return err }(),
		} {
			if err == nil || strings.Contains(err.Error(), "panic") || status.Code(err) == codes.Unavailable {
				t.Errorf("%s of %.40q: got %v, want an error of the driver", call, id, err)
			}
		}
	}
	other.wantUntouched(t)
	if running, err := machine.plugin.IsRunning(t.Context()); err != nil || !running {
		t.Errorf("growvol-node is running: got %t, %v", running, err)
	}
}

// A disk smaller than its volume is another disk or not ready yet: stage does not
// format it.
func TestStageDoesNotFormatADiskSmallerThanItsVolume(t *testing.T) {
	t.Parallel()
	d := newVolume(t, newID(), csiclient.MountCapability("ext4"))
	d.PublishContext[cindercsi.ContextSize] = fmt.Sprint(gib.Bytes())
	d.PublishContext[cindercsi.ContextEncrypted] = "false"
	d.plug(t, vm.Disk{Bus: vm.VirtioBlk, Size: gib - 16*mib})
	must.FailWith(t, d.stageWithin(t, 20*time.Second), codes.DeadlineExceeded, d.ID, "1008 MiB", "1 GiB", "next step")
	d.wantBlank(t)
	d.grow(t, gib)
	d.stageAndPublish(t)
}
