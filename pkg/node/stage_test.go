package node

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// There are long waits before mkfs and mount: the disk is verified again directly before each of
// them.
func TestStageVerifiesTheDiskDirectlyBeforeFormatAndMount(t *testing.T) {
	for step, c := range map[string]struct {
		last    string // the call before the confirmation
		content filesystem.Signature
	}{
		"format": {"await", filesystem.Signature{State: filesystem.StateBlank}},
		"mount":  {"check", ext4Signature()},
	} {
		t.Run(step, func(t *testing.T) {
			b := newTestNode(t, mountCapability("ext4"))
			d := b.add(b.id, volume.GiB)
			d.content = c.content
			b.hooks[c.last] = func() { d.serial = "vol-2" }
			volumetest.WantKind(t, b.stage(t.Context()), volume.KindPrecondition, "another volume")
			if b.countCalls(step) != 0 || d.content != c.content || len(b.mounts) != 0 {
				t.Errorf("calls %v, content %s, mounts %+v", b.calls, d.content, b.mounts)
			}
		})
	}
}

func TestStageFormatsABlankVolumeOnce(t *testing.T) {
	b := newTestNode(t, mountCapability("xfs"))
	d := b.add(b.id, volume.GiB)
	for range 3 {
		if err := b.stage(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := b.countCalls("format"); n != 1 {
		t.Errorf("formatted %d times", n)
	}
	if len(b.mounts) != 1 || b.mounts[0].MountPoint != b.staging || d.content.Type != filesystem.TypeXFS {
		t.Errorf("mounts %+v, content %s", b.mounts, d.content)
	}
}

func TestStageDefaultsToExt4(t *testing.T) {
	b := newTestNode(t, mountCapability(""))
	d := b.add(b.id, volume.GiB)
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	if d.content.Type != filesystem.TypeExt4 {
		t.Errorf("formatted as %s", d.content.Type)
	}
}

func TestStageFailsWithoutChangingTheVolume(t *testing.T) {
	for name, c := range map[string]struct {
		capability *csi.VolumeCapability
		prepare    func(b *testNode, d *fakeDisk)
		kind       volume.Kind
		words      []string
	}{
		"another filesystem than asked for": {mountCapability("ext4"), func(_ *testNode, d *fakeDisk) {
			d.content = filesystem.Signature{
				State: filesystem.StateFormatted, IsComplete: true, Type: filesystem.TypeXFS, Size: volume.GiB,
			}
		}, volume.KindPrecondition, []string{"xfs", "ext4", "vol-1"}},
		"foreign data": {mountCapability("ext4"), func(_ *testNode, d *fakeDisk) {
			d.content = filesystem.Signature{State: filesystem.StateForeign, Content: "LUKS encryption", IsRecognized: true}
		}, volume.KindPrecondition, []string{"LUKS"}},
		"an unreadable device": {mountCapability("ext4"), func(b *testNode, _ *fakeDisk) {
			b.fail["probe"] = volume.Errorf(volume.KindInternal, "input/output error")
		}, volume.KindInternal, []string{"input/output error"}},
		"the device of another volume": {
			mountCapability("ext4"), func(_ *testNode, d *fakeDisk) { d.serial = "vol-2" }, volume.KindPrecondition,
			[]string{"another volume"},
		},
		"a blank device that is too small": {mountCapability("ext4"), func(_ *testNode, d *fakeDisk) {
			d.connected, d.deviceSize, d.ignoresRescan = true, volume.MiB, true
		}, volume.KindDeadline, []string{"1 MiB", "1 GiB"}},
		"a blank volume asked for read-only": {
			mountCapability("ext4", "ro"), nil, volume.KindPrecondition, []string{"read-only"},
		},
		"a filesystem that needs repair": {mountCapability("ext4"), func(b *testNode, d *fakeDisk) {
			d.content = ext4Signature()
			b.fail["check"] = volume.Errorf(volume.KindPrecondition, "run e2fsck")
		}, volume.KindPrecondition, []string{"e2fsck"}},
		"a filesystem type that this driver does not grow": {
			mountCapability("ntfs"), nil, volume.KindInvalid, []string{"ntfs"},
		},
		"a volume that the backend has not": {
			mountCapability("ext4"), func(b *testNode, _ *fakeDisk) { delete(b.disks, b.id) }, volume.KindNotFound, nil,
		},
		"a capability without an access type": {
			&csi.VolumeCapability{AccessMode: mountCapability("").GetAccessMode()}, nil, volume.KindInvalid, nil,
		},
		"a capability without an access mode": {
			&csi.VolumeCapability{AccessType: mountCapability("").GetAccessType()}, nil, volume.KindInvalid, nil,
		},
		"a raw device that stays too small": {
			blockCapability(),
			func(_ *testNode, d *fakeDisk) { d.connected, d.deviceSize, d.ignoresRescan = true, volume.MiB, true },
			volume.KindDeadline,
			[]string{"1 MiB"},
		},
		"the connector's failure to find disk": {mountCapability("ext4"), func(b *testNode, _ *fakeDisk) {
			b.fail["connect"] = volume.Errorf(volume.KindDeadline, "no disk appeared")
		}, volume.KindDeadline, []string{"no disk"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newTestNode(t, c.capability)
				d := b.add(b.id, volume.GiB)
				if c.prepare != nil {
					c.prepare(b, d)
				}
				content := d.content
				timeout := time.Minute
				if c.kind == volume.KindDeadline {
					timeout = 50 * time.Millisecond
				}
				ctx, cancel := context.WithTimeout(t.Context(), timeout)
				defer cancel()
				volumetest.WantKind(t, b.stage(ctx), c.kind, c.words...)
				if d.content != content || len(b.mounts) != 0 {
					t.Errorf("content is now %s, mounts %v", d.content, b.mounts)
				}
			})
		})
	}
}

func TestStageFailsWhenAnotherFilesystemIsAtTheStagingPath(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	b.add(b.id, volume.GiB)
	other := b.add("vol-2", volume.GiB)
	other.connected, other.content = true, ext4Signature()
	fakeFilesystems{b.machine}.mount(filesystem.Mount{
		MountPoint: b.staging, FSType: "ext4", Source: other.path, Device: diskNumberOf(other), Options: []string{"rw"},
	})
	volumetest.WantKind(t, b.stage(t.Context()), volume.KindPrecondition, b.staging, "another filesystem")
	if b.countCalls("format") != 0 {
		t.Error("formatted")
	}
}

func TestStageAgainWithOtherCapabilitiesFails(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	b.add(b.id, volume.GiB)
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.capability = mountCapability("xfs")
	volumetest.WantKind(t, b.stage(t.Context()), volume.KindAlreadyExists, "xfs", "ext4")
	b.capability = mountCapability("ext4", "ro")
	volumetest.WantKind(t, b.stage(t.Context()), volume.KindAlreadyExists, "read-only")
}

// A pod may have the raw device open: mkfs would not notice.
func TestStageFailsWhileTheVolumeIsUsedInTheOtherWay(t *testing.T) {
	b := newTestNode(t, blockCapability())
	d := b.stageAndPublish(t, volume.GiB)
	b.capability = mountCapability("ext4")
	volumetest.WantKind(t, b.stage(t.Context()), volume.KindPrecondition, "raw device", b.target)
	if d.content.State != filesystem.StateBlank {
		t.Errorf("the volume now holds %s", d.content)
	}

	b = newTestNode(t, mountCapability("ext4"))
	b.stageAndPublish(t, volume.GiB)
	b.capability = blockCapability()
	volumetest.WantKind(t, b.stage(t.Context()), volume.KindPrecondition, "mounted")
}

// Neither stage nor publish succeeds on a filesystem that has failed.
func TestFailedFilesystemIsCheckedOnceNoPodUsesIt(t *testing.T) {
	failed := volume.Errorf(volume.KindPrecondition, "the filesystem has shut down")
	b := newTestNode(t, mountCapability("xfs"))
	d := b.stageAndPublish(t, volume.GiB)
	d.mountFailure = failed
	volumetest.WantKind(t, b.stage(t.Context()), volume.KindPrecondition, "shut down") // a pod still has it
	volumetest.WantKind(t, b.publish(t.Context(), false), volume.KindPrecondition, "shut down")
	if err := b.unpublish(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.stage(t.Context()); err != nil {
		t.Fatalf("no pod uses it, so it can be checked and mounted again: %v", err)
	}
	if d.mountFailure != nil || b.countCalls("mount") != 2 || b.countCalls("check") != 1 {
		t.Errorf("failure %v, mounted %d times, checked %d times",
			d.mountFailure, b.countCalls("mount"), b.countCalls("check"))
	}
}

// A filesystem that does not answer has not failed: it stays mounted.
func TestStageLeavesAFilesystemWithoutAnswerMounted(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	b.add(b.id, volume.GiB)
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []volume.Kind{volume.KindDeadline, volume.KindInternal} {
		b.fail["alive"] = volume.Errorf(kind, "the device does not answer")
		volumetest.WantKind(t, b.stage(t.Context()), kind, "does not answer")
		if len(b.mounts) != 1 || b.countCalls("unmount") != 0 {
			t.Errorf("%s: mounts %v, %d unmounts", kind, b.mounts, b.countCalls("unmount"))
		}
	}
}
