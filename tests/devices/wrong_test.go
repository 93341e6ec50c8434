package devices

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
	"github.com/growvol/growvol/tests/co"
	"github.com/growvol/growvol/tests/vm"
)

// fill writes a pattern over the start of a disk that is not the volume: what
// is somebody else's must be the same afterwards.
func (d *disk) fill(t *testing.T) {
	t.Helper()
	sh(t, "yes "+d.ID+" | head -c 4194304 | dd of="+d.path(t)+" bs=1M conv=fsync 2>&1")
	d.pattern = d.hash(t)
}

func (d *disk) hash(t *testing.T) string {
	t.Helper()
	return sh(t, "head -c 4194304 "+d.path(t)+" | sha256sum")
}

func (d *disk) wantUntouched(t *testing.T) {
	t.Helper()
	if got := d.hash(t); d.pattern == "" || got != d.pattern {
		t.Errorf("the disk of %s was written to: %q, then %q", d.ID, d.pattern, got)
	}
}

// wantBlank looks at the start of a disk, where every filesystem begins.
func (d *disk) wantBlank(t *testing.T) {
	t.Helper()
	if got := sh(t, "head -c 4194304 "+d.path(t)+" | tr -d '\\0' | wc -c"); got != "0" {
		t.Errorf("%s bytes were written to the disk of %s", got, d.ID)
	}
}

// A link of udev's that points to another disk is no evidence: what the disk
// itself says of itself decides.
func TestLinkToAnotherDiskIsIgnored(t *testing.T) {
	t.Parallel()
	d, other := plug(t, vm.VirtioBlk, co.Mount("ext4")), plug(t, vm.VirtioBlk, co.Mount("ext4"))
	missing := volumeOf(t, newID(), co.Mount("ext4"))
	other.fill(t)
	place, links := other.path(t), ""
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
	d.use(t)
	if got := sh(t, "grep "+d.Staging+" /proc/mounts | cut -d' ' -f1"); got != d.path(t) {
		t.Errorf("staged %s, the disk is %s", got, d.path(t))
	}
	// With no disk of its own, all that is left is the link.
	err := missing.stageWithin(t, 20*time.Second)
	wantCode(t, err, codes.DeadlineExceeded, missing.ID, missing.ID[:20], other.ID[:20], "next step")
	other.wantUntouched(t)
}

// Two disks that show the same 20 characters: on a bus that shows no more
// nobody can tell which is the volume, so none is touched. This test has the
// guest for itself: a disk that takes seconds to answer is not counted.
func TestDisksWithEqualBeginningsOfSerials(t *testing.T) {
	id := newID()
	twin := id[:len(id)-8] + "00000000"
	d := volumeOf(t, id, co.Mount("ext4"))
	rival := volumeOf(t, twin, co.Mount("ext4"))
	d.plug(t, vm.Disk{Bus: vm.VirtioBlk, Size: gib})
	rival.plug(t, vm.Disk{Bus: vm.VirtioBlk, Size: gib})
	// Disks of other tests come and go: one that has just left is no error.
	show := "grep -l -s -x -F " + id[:20] + " /sys/block/vd*/serial"
	sh(t, "for i in $(seq 300); do [ $("+show+" | wc -l) = 2 ] && exit 0; sleep 0.1; done; exit 1")
	for _, v := range []*disk{d, rival} {
		err := v.stageWithin(t, 30*time.Second)
		wantCode(t, err, codes.FailedPrecondition, v.ID, "several disks", "next step")
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
	d.use(t)
	d.unuse(t)
}

// On a bus that shows it, the whole serial tells two disks apart, and a
// beginning alone is no match.
func TestBeginningOfASerialIsNoMatch(t *testing.T) {
	t.Parallel()
	d, rival := plug(t, vm.VirtioSCSI, co.Mount("xfs")), volumeOf(t, "", co.Mount("xfs"))
	rival.ID = d.ID[:len(d.ID)-8] + "00000000"
	wantCode(t, rival.stageWithin(t, 20*time.Second), codes.DeadlineExceeded, rival.ID, "next step")
	rival.plug(t, vm.Disk{Bus: vm.VirtioSCSISilent, Size: 2 * gib})
	for _, v := range []*disk{d, rival} {
		v.use(t)
		v.wantDF(t, v.size)
	}
}

// The disk is pulled out under a pod and another volume's takes its place,
// down to the device number. The volume does not grow into it, nor is it
// touched; and kubelet gets rid of what is left.
func TestAnotherDiskInTheVolumesPlace(t *testing.T) {
	for _, bus := range []vm.Bus{vm.VirtioBlk, vm.VirtioSCSI} {
		for _, kind := range []string{"ext4", "xfs", "block"} {
			// One after the other: the place must stay free for the other disk.
			t.Run(string(bus)+"/"+kind, func(t *testing.T) {
				capability := co.Block()
				if kind != "block" {
					capability = co.Mount(kind)
				}
				d := plug(t, bus, capability)
				d.use(t)
				place := d.path(t)
				d.unplug(t)
				other := volumeOf(t, newID(), co.Mount("ext4"))
				other.plug(t, vm.Disk{Bus: bus, Size: 2 * gib})
				other.fill(t)
				// A filesystem keeps the name of its disk as long as it is mounted.
				if now := other.path(t); now != place && kind == "block" {
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
				must(t, call(t, machine.driver.Unpublish, d))
				// What could not be written back may be told once.
				if err := call(t, machine.driver.Unstage, d); err != nil {
					t.Log(err)
					must(t, call(t, machine.driver.Unstage, d))
				}
				other.wantUntouched(t)
			})
		}
	}
}

// A volume is asked to grow at the path of another: the request contradicts
// itself, and neither grows.
func TestPathOfAnotherVolume(t *testing.T) {
	t.Parallel()
	for _, capability := range []*csi.VolumeCapability{co.Mount("ext4"), co.Block()} {
		d, other := plug(t, vm.VirtioBlk, capability), plug(t, vm.VirtioSCSI, capability)
		for _, v := range []*disk{d, other} {
			v.use(t)
			v.grow(t, 2*gib)
		}
		crossed := *d.Volume
		crossed.Target, crossed.Staging = other.Target, other.Staging
		_, err := machine.driver.ExpandNode(t.Context(), &crossed, (2 * gib).Bytes())
		wantCode(t, err, codes.FailedPrecondition, d.ID, other.ID)
		if capability.GetBlock() == nil {
			// Each grows with its own disk, and by nobody's call.
			other.awaitDF(t, 2*gib, time.Minute)
			d.awaitDF(t, 2*gib, time.Minute)
		}
	}
}

// Whatever an id looks like, the answer is an error, never a crash of the plugin
// for all volumes, and never another's disk.
func TestShortAndOddIDs(t *testing.T) {
	t.Parallel()
	nothing := plug(t, vm.VirtioSCSI, co.Block()) // there is a disk that none of these ids means
	nothing.fill(t)
	full := newID()
	for _, id := range []string{
		"a", "vda", "*", "../../etc/passwd", "/dev/vda", "%s%n", "a\x00b\n", "日本語", full[:8], full[:19],
		nothing.ID[:8], nothing.ID[:20], nothing.ID + "0", strings.ToUpper(nothing.ID), strings.Repeat("x", 5000),
	} {
		d := volumeOf(t, id, co.Mount("ext4"))
		hurried, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		staged := machine.driver.Stage(hurried, d.Volume)
		cancel()
		for what, err := range map[string]error{
			"stage":   staged,
			"publish": call(t, machine.driver.Publish, d),
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
func TestShortDiskIsNotFormatted(t *testing.T) {
	t.Parallel()
	d := volumeOf(t, newID(), co.Mount("ext4"))
	d.Publish[cindercsi.ContextSize] = fmt.Sprint(gib.Bytes())
	d.Publish[cindercsi.ContextEncrypted] = "false"
	d.plug(t, vm.Disk{Bus: vm.VirtioBlk, Size: gib - 16*mib})
	wantCode(t, d.stageWithin(t, 20*time.Second), codes.DeadlineExceeded, d.ID, "1008 MiB", "1 GiB", "next step")
	d.wantBlank(t)
	d.grow(t, gib)
	d.use(t)
}
