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

// writePattern writes a pattern over the start of a disk that is not the volume: what
// is somebody else's must be the same afterwards.
func (d *disk) writePattern(t *testing.T) {
	t.Helper()
	sh(t, "yes "+d.ID+" | head -c 4194304 | dd of="+d.findDevice(t)+" bs=1M conv=fsync 2>&1")
	d.writtenHash = d.patternHash(t)
}

func (d *disk) patternHash(t *testing.T) string {
	t.Helper()
	return sh(t, "head -c 4194304 "+d.findDevice(t)+" | sha256sum")
}

func (d *disk) wantUntouched(t *testing.T) {
	t.Helper()
	if got := d.patternHash(t); d.writtenHash == "" || got != d.writtenHash {
		t.Errorf("the disk of %s was written to: %q, then %q", d.ID, d.writtenHash, got)
	}
}

// wantBlank looks at the start of a disk, where every filesystem begins.
func (d *disk) wantBlank(t *testing.T) {
	t.Helper()
	if got := sh(t, "head -c 4194304 "+d.findDevice(t)+" | tr -d '\\0' | wc -c"); got != "0" {
		t.Errorf("%s bytes were written to the disk of %s", got, d.ID)
	}
}

// A link of udev's that points to another disk is no evidence: what the disk
// itself says of itself decides.
func TestStageIgnoresLinksToOtherDisks(t *testing.T) {
	t.Parallel()
	d, other := plugVolume(t, vm.VirtioBlk, csiclient.MountCapability("ext4")), plugVolume(t, vm.VirtioBlk, csiclient.MountCapability("ext4"))
	missing := newVolume(t, newID(), csiclient.MountCapability("ext4"))
	other.writePattern(t)
	place, links := other.findDevice(t), ""
	for _, id := range []string{d.ID, missing.ID} {
		for _, name := range []string{"virtio-" + id, "virtio-" + id[:20], "scsi-0QEMU_QEMU_HARDDISK_" + id, "wwn-0x" + id} {
			links += " /dev/disk/by-id/" + name
		}
	}
	sh(t, "mkdir -p /dev/disk/by-id && for l in "+links+"; do ln -s "+place+" $l; done")
	t.Cleanup(func() {
		if _, err := machine.Run(context.WithoutCancel(t.Context()), vm.Command{Argv: []string{"sh", "-c", "rm " + links}}); err != nil {
			t.Error(err)
		}
	})
	d.stageAndPublish(t)
	if got := sh(t, "grep "+d.Staging+" /proc/mounts | cut -d' ' -f1"); got != d.findDevice(t) {
		t.Errorf("staged %s, the disk is %s", got, d.findDevice(t))
	}
	// With no disk of its own, all that is left is the link.
	err := missing.stageWithin(t, 20*time.Second)
	must.FailWith(t, err, codes.DeadlineExceeded, missing.ID, missing.ID[:20], other.ID[:20], "next step")
	other.wantUntouched(t)
}

// Two disks that show the same 20 characters: on a bus that shows no more
// nobody can tell which is the volume, so none is touched. This test has the
// guest for itself: a disk that takes seconds to answer is not counted.
func TestStageRefusesAmbiguousSerials(t *testing.T) {
	id := newID()
	twin := id[:len(id)-8] + "00000000"
	d := newVolume(t, id, csiclient.MountCapability("ext4"))
	rival := newVolume(t, twin, csiclient.MountCapability("ext4"))
	d.plug(t, vm.Disk{Bus: vm.VirtioBlk, Size: gib})
	rival.plug(t, vm.Disk{Bus: vm.VirtioBlk, Size: gib})
	// Disks of other tests come and go: one that has just left is no error.
	show := "grep -l -s -x -F " + id[:20] + " /sys/block/vd*/serial"
	sh(t, "for i in $(seq 300); do [ $("+show+" | wc -l) = 2 ] && exit 0; sleep 0.1; done; exit 1")
	for _, v := range []*disk{d, rival} {
		err := v.stageWithin(t, 30*time.Second)
		must.FailWith(t, err, codes.FailedPrecondition, v.ID, "several disks", "next step")
	}
	twins := strings.Fields(sh(t, show+" | cut -d/ -f4"))
	if len(twins) != 2 {
		t.Errorf("the disks that show %s: %q", id[:20], twins)
	}
	for _, twin := range twins {
		if got := sh(t, "head -c 1048576 /dev/"+twin+" | tr -d '\\0' | wc -c"); got != "0" {
			t.Errorf("%s bytes were written to %s", got, twin)
		}
	}
	rival.unplug(t)
	d.stageAndPublish(t)
	d.unstage(t)
}

// On a bus that shows it, the whole serial tells two disks apart, and a
// beginning alone is no match.
func TestStageComparesWholeSerials(t *testing.T) {
	t.Parallel()
	d, rival := plugVolume(t, vm.VirtioSCSI, csiclient.MountCapability("xfs")), newVolume(t, "", csiclient.MountCapability("xfs"))
	rival.ID = d.ID[:len(d.ID)-8] + "00000000"
	must.FailWith(t, rival.stageWithin(t, 20*time.Second), codes.DeadlineExceeded, rival.ID, "next step")
	rival.plug(t, vm.Disk{Bus: vm.VirtioSCSISilent, Size: 2 * gib})
	for _, v := range []*disk{d, rival} {
		v.stageAndPublish(t)
		v.wantDF(t, v.size)
	}
}

// The disk is pulled out under a pod and another volume's takes its place,
// down to the device number. The volume does not grow into it, nor is it
// touched; and kubelet gets rid of what is left.
func TestExpandFailsWhenAnotherDiskTakesThePlace(t *testing.T) {
	for _, bus := range []vm.Bus{vm.VirtioBlk, vm.VirtioSCSI} {
		for _, kind := range []string{"ext4", "xfs", "block"} {
			// One after the other: the place must stay free for the other disk.
			t.Run(string(bus)+"/"+kind, func(t *testing.T) {
				capability := csiclient.BlockCapability()
				if kind != "block" {
					capability = csiclient.MountCapability(kind)
				}
				d := plugVolume(t, bus, capability)
				d.stageAndPublish(t)
				place := d.findDevice(t)
				d.unplug(t)
				other := newVolume(t, newID(), csiclient.MountCapability("ext4"))
				other.plug(t, vm.Disk{Bus: bus, Size: 2 * gib})
				other.writePattern(t)
				// A filesystem keeps the name of its disk as long as it is mounted.
				if now := other.findDevice(t); now != place && kind == "block" {
					t.Errorf("the other disk is %s, the volume was %s: this is not the case to be tested", now, place)
				}

				_, err := d.expandWithin(t, 2*gib, 10*time.Second)
				if code := status.Code(err); code != codes.Internal && code != codes.FailedPrecondition {
					t.Errorf("expansion: %v", err)
				}
				if err == nil || !strings.Contains(err.Error(), d.ID) || !strings.Contains(err.Error(), "next step") {
					t.Errorf("the message names no volume or no way out: %v", err)
				}
				// A new pod cannot have the volume either.
				again := *d.Volume
				again.Target += "-2"
				if err := machine.driver.Publish(t.Context(), &again); err == nil {
					t.Error("published once more")
				}
				must.Succeed(t, callWithTimeout(t, machine.driver.Unpublish, d))
				// What could not be written back may be told once.
				if err := callWithTimeout(t, machine.driver.Unstage, d); err != nil {
					t.Log(err)
					must.Succeed(t, callWithTimeout(t, machine.driver.Unstage, d))
				}
				other.wantUntouched(t)
			})
		}
	}
}

// A volume is asked to grow at the path of another: the request contradicts
// itself, and neither grows.
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
			// Each grows with its own disk, and by nobody's call.
			other.awaitDF(t, 2*gib, time.Minute)
			d.awaitDF(t, 2*gib, time.Minute)
		}
	}
}

// Whatever an id looks like, the answer is an error, never a crash of the plugin
// for all volumes, and never another's disk.
func TestCallsRefuseShortAndOddIDs(t *testing.T) {
	t.Parallel()
	nothing := plugVolume(t, vm.VirtioSCSI, csiclient.BlockCapability()) // there is a disk that none of these ids means
	nothing.writePattern(t)
	full := newID()
	for _, id := range []string{
		"a", "vda", "*", "../../etc/passwd", "/dev/vda", "%s%n", "a\x00b\n", "日本語", full[:8], full[:19],
		nothing.ID[:8], nothing.ID[:20], nothing.ID + "0", strings.ToUpper(nothing.ID), strings.Repeat("x", 5000),
	} {
		d := newVolume(t, id, csiclient.MountCapability("ext4"))
		hurried, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		staged := machine.driver.Stage(hurried, d.Volume)
		cancel()
		for what, err := range map[string]error{
			"stage":   staged,
			"publish": callWithTimeout(t, machine.driver.Publish, d),
			"expand":  func() error { _, err := d.expand(t, gib); return err }(),
			"stats":   func() error { _, _, err := machine.driver.Stats(t.Context(), d.Volume); return err }(),
		} {
			if err == nil || strings.Contains(err.Error(), "panic") || status.Code(err) == codes.Unavailable {
				t.Errorf("%s of %.40q: %v", what, id, err)
			}
		}
	}
	nothing.wantUntouched(t)
	if running, err := machine.plugin.Running(t.Context()); err != nil || !running {
		t.Errorf("growvol-node runs: %t, %v", running, err)
	}
}

// What is to be formatted must be all there: a disk smaller than its volume is
// another disk, or not ready.
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
