package node

import (
	"errors"
	"testing"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// A node whose device mapper does not answer can still unstage plain volumes.
func TestUnstageOfAPlainVolumeNeedsNoDeviceMapper(t *testing.T) {
	for name, lost := range map[string]bool{"with a record": false, "without a record": true} {
		t.Run(name, func(t *testing.T) {
			b := newTestNode(t, mountCapability("ext4"))
			d := b.add(b.id, volume.GiB)
			for _, call := range []string{"luks-find", "luks-close"} {
				b.fail[call] = errors.New("no device mapper control")
			}
			if err := b.stage(t.Context()); err != nil {
				t.Fatal(err)
			}
			if lost {
				if err := b.records.Remove(b.id); err != nil {
					t.Fatal(err)
				}
			}
			if err := b.unstage(t.Context()); err != nil {
				t.Fatal(err)
			}
			wantClosed(t, b, d)
			b.fail["mount"] = volume.Errorf(volume.KindPrecondition, "the kernel has no ext4")
			volumetest.WantKind(t, b.stage(t.Context()), volume.KindPrecondition, "no ext4")
			wantClosed(t, b, d) // the rollback too
		})
	}
}

// An encrypted volume is not disconnected while device mapper does not answer.
func TestUnstageOfAnEncryptedVolumeNeedsDeviceMapper(t *testing.T) {
	b := newEncryptedTestNode(t, mountCapability("ext4"))
	d := b.add(b.id, volume.GiB)
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.records.Remove(b.id); err != nil {
		t.Fatal(err)
	}
	b.fail["luks-find"] = errors.New("no device mapper control")
	if err := b.unstage(t.Context()); err == nil || !d.connected || b.mappedDisks[b.id] != d {
		t.Errorf("%v; connected %t, mapping %t", err, d.connected, b.mappedDisks[b.id] == d)
	}
	delete(b.fail, "luks-find")
	b.fail["holders"] = errors.New("sysfs is unreadable")
	if err := b.unstage(t.Context()); err == nil || !d.connected || b.mappedDisks[b.id] != d {
		t.Errorf("%v; connected %t, mapping %t", err, d.connected, b.mappedDisks[b.id] == d)
	}
}

func TestUnstageOfAnEncryptedVolumeCanBeRepeated(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(b *testNode, d *fakeDisk)
	}{
		"nothing has happened yet": {func(*testNode, *fakeDisk) {}},
		"unmounted":                {func(b *testNode, _ *fakeDisk) { b.mounts = nil }},
		"closed": {func(b *testNode, d *fakeDisk) {
			b.mounts, d.mappingSize = nil, 0
			delete(b.mappedDisks, b.id)
		}},
		"disconnected": {func(b *testNode, d *fakeDisk) {
			b.mounts, d.mappingSize, d.connected = nil, 0, false
			delete(b.mappedDisks, b.id)
		}},
		"the record is gone":           {func(b *testNode, _ *fakeDisk) { _ = b.records.Remove(b.id) }},
		"the volume was deleted":       {func(_ *testNode, d *fakeDisk) { d.deleted = true }},
		"the disk is gone":             {func(_ *testNode, d *fakeDisk) { d.connected = false }},
		"disk and volume are gone":     {func(_ *testNode, d *fakeDisk) { d.connected, d.deleted = false, true }},
		"deleted, and no record of it": {func(b *testNode, d *fakeDisk) { d.deleted = true; _ = b.records.Remove(b.id) }},
	} {
		t.Run(name, func(t *testing.T) {
			b := newEncryptedTestNode(t, mountCapability("ext4"))
			d := b.add(b.id, volume.GiB)
			if err := b.stage(t.Context()); err != nil {
				t.Fatal(err)
			}
			c.prepare(b, d)
			for range 2 {
				if err := b.unstage(t.Context()); err != nil {
					t.Fatal(err)
				}
				wantClosed(t, b, d)
			}
			if r, err := b.records.Read(b.id); err != nil || r.ID != "" {
				t.Errorf("record %+v, %v", r, err)
			}
		})
	}
}

func TestUnstageFailsWhileTheMappingIsInUse(t *testing.T) {
	b := newEncryptedTestNode(t, mountCapability("ext4"))
	d := b.stageAndPublish(t, volume.GiB)
	volumetest.WantKind(t, b.unstage(t.Context()), volume.KindPrecondition, b.target)
	if b.mappedDisks[b.id] == nil || !d.connected {
		t.Error("a published volume was taken away")
	}
	if err := b.unpublish(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.fail["luks-close"] = volume.Errorf(volume.KindDeadline, "the mapping stays open")
	volumetest.WantKind(t, b.unstage(t.Context()), volume.KindDeadline, "stays open")
	if !d.connected || b.countCalls("disconnect") != 0 {
		t.Error("disconnected below an open mapping")
	}
	delete(b.fail, "luks-close")
	b.fail["luks-find"] = errors.New("no device mapper control")
	volumetest.WantKind(t, b.unstage(t.Context()), volume.KindInternal)
	delete(b.fail, "luks-find")
	if err := b.unstage(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantClosed(t, b, d)
}

// The name of a mapping proves nothing.
func TestUnstageLeavesAForeignMappingAlone(t *testing.T) {
	for name, deleted := range map[string]bool{"on another volume's disk": false, "of a volume that is not known": true} {
		t.Run(name, func(t *testing.T) {
			b := newEncryptedTestNode(t, mountCapability("ext4"))
			other := b.add("vol-2", volume.GiB)
			other.connected, other.deviceSize = true, volume.GiB
			b.encrypt(other) // under the name of vol-1
			if !deleted {
				b.add(b.id, volume.GiB)
			}
			if err := b.unstage(t.Context()); err != nil {
				t.Fatal(err)
			}
			if b.mappedDisks[b.id] != other || b.countCalls("luks-close") != 0 {
				t.Error("the mapping of another volume was closed")
			}
		})
	}
	b := newEncryptedTestNode(t, mountCapability("ext4"))
	other := b.add("vol-2", volume.GiB)
	other.connected, other.deviceSize = true, volume.GiB
	b.encrypt(other)
	b.add(b.id, volume.GiB)
	b.fail["verify"] = volume.Errorf(volume.KindDeadline, "no answer")
	volumetest.WantKind(t, b.unstage(t.Context()), volume.KindDeadline)
	delete(b.fail, "verify")
	b.fail["luks-find"] = volume.Errorf(volume.KindPrecondition, "not a LUKS2 mapping of this driver")
	if err := b.unstage(t.Context()); err != nil || b.countCalls("luks-close") != 0 {
		t.Errorf("a foreign device of that name: %v, %d calls of Close", err, b.countCalls("luks-close"))
	}
}

// The connector denies the identity of the disk that it locates itself: neither the mapping nor the
// disk is taken away.
func TestUnstageFailsWhenTheLocatedDiskIsNotVerified(t *testing.T) {
	b := newEncryptedTestNode(t, blockCapability())
	d := b.add(b.id, volume.GiB)
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.serial = "vol-2"
	volumetest.WantKind(t, b.unstage(t.Context()), volume.KindPrecondition, "another volume")
	if b.countCalls("luks-close") != 0 || b.countCalls("disconnect") != 0 || b.mappedDisks[b.id] != d {
		t.Error("the mapping or the disk was taken away")
	}
}

func TestUnstageFailsWhilePublishedThenSucceeds(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	d := b.stageAndPublish(t, volume.GiB)
	// still published: it must not be cut off
	volumetest.WantKind(t, b.unstage(t.Context()), volume.KindPrecondition, b.target)
	if err := b.unpublish(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := b.unstage(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if d.connected || len(b.mounts) != 0 {
		t.Errorf("connected %t, mounts %v", d.connected, b.mounts)
	}
	if n := b.countCalls("probe"); n != 1 { // the one at stage
		t.Errorf("the device was probed %d times", n)
	}
}

func TestUnstageLeavesAnotherVolumeAlone(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	b.stageAndPublish(t, volume.GiB)
	if err := b.unpublish(t.Context()); err != nil {
		t.Fatal(err)
	}
	other := b.add("vol-2", volume.GiB)
	other.connected = true
	b.id = "vol-2"
	volumetest.WantKind(t, b.unstage(t.Context()), volume.KindPrecondition, b.staging)
	other.connected = false // never staged here
	volumetest.WantKind(t, b.unstage(t.Context()), volume.KindPrecondition, b.staging)
	if len(b.mounts) != 1 {
		t.Errorf("mounts %v", b.mounts)
	}
}

func TestUnstageFailsWhileARawVolumeIsPublished(t *testing.T) {
	b := newTestNode(t, blockCapability())
	d := b.stageAndPublish(t, volume.GiB)
	volumetest.WantKind(t, b.unstage(t.Context()), volume.KindPrecondition, b.target)
	if !d.connected {
		t.Error("disconnected")
	}
}

func TestUnstageOfADeletedVolume(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	b.stageAndPublish(t, volume.GiB)
	delete(b.disks, b.id)
	if err := errors.Join(b.unpublish(t.Context()), b.unstage(t.Context())); err != nil {
		t.Fatal(err)
	}
	if len(b.mounts) != 0 {
		t.Errorf("mounts %v", b.mounts)
	}
}
