package node

import (
	"context"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/node/stagerecord"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

func TestRecordStaysUntilTheVolumeIsDisconnected(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	b.add(b.id, volume.GiB)
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.fail["disconnect"] = volume.Errorf(volume.KindDeadline, "a process still has it open")
	volumetest.WantKind(t, b.unstage(t.Context()), volume.KindDeadline)
	if left, err := b.records.List(t.Context()); err != nil || len(left) != 1 {
		t.Errorf("records %+v, %v", left, err)
	}
	delete(b.fail, "disconnect")
	if err := b.unstage(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left, err := b.records.List(t.Context()); err != nil || len(left) != 0 {
		t.Errorf("records left: %+v, %v", left, err)
	}
}

// The record is written before the mount: after a crash between the two nothing would know of the
// mount.
func TestRecordIsWrittenBeforeTheMount(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	b.add(b.id, volume.GiB)
	var known []stagerecord.Record
	b.hooks["mount"] = func() { known, _ = b.records.List(context.Background()) }
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(known) != 1 || known[0].ID != b.id || known[0].Staging != b.staging {
		t.Errorf("records at the mount: %+v", known)
	}
}

// An id may be longer than a file name.
func TestRecordOfAVolumeWithALongID(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	b.id = strings.Repeat("/", 128) // 384 bytes once it is escaped
	b.add(b.id, volume.GiB)
	for range 2 {
		if err := b.stage(t.Context()); err != nil {
			t.Fatal(err)
		}
		records, err := b.records.List(t.Context())
		if err != nil || len(records) != 1 || records[0].ID != b.id {
			t.Errorf("records %v, %v", records, err)
		}
		if ids := b.records.IDs(t.Context()); len(ids) != 1 || ids[0] != b.id {
			t.Errorf("staged volumes %q", ids)
		}
		if err := b.unstage(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	b.id = strings.Repeat("x", 5000) // no volume has it
	if err := b.unstage(t.Context()); err != nil {
		t.Error(err)
	}
}

// singleNodeReader returns the capability with the access mode SINGLE_NODE_READER_ONLY.
func singleNodeReader(c *csi.VolumeCapability) *csi.VolumeCapability {
	c.AccessMode.Mode = csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY
	return c
}

// A repeated stage that fails in any way keeps the record of what is staged.
func TestFailedRestageKeepsTheRecord(t *testing.T) {
	refused := map[volume.Kind]error{
		volume.KindPrecondition: volume.Errorf(volume.KindPrecondition, "final"),
		volume.KindDeadline:     volume.Errorf(volume.KindDeadline, "transient"),
	}
	for name, newNode := range map[string]func(*testing.T, *csi.VolumeCapability) *testNode{
		"plain": newTestNode, "encrypted": newEncryptedTestNode,
	} {
		restage := func(t *testing.T, staged *csi.VolumeCapability, kind volume.Kind, change func(b *testNode, d *fakeDisk)) {
			t.Helper()
			b := newNode(t, staged)
			d := b.add(b.id, volume.GiB)
			if err := b.stage(t.Context()); err != nil {
				t.Fatal(err)
			}
			want, err := b.records.Read(b.id)
			if err != nil || want.ID != b.id {
				t.Fatalf("record %+v, %v", want, err)
			}
			mounts := len(b.mounts)
			change(b, d)
			for range 2 {
				volumetest.WantKind(t, b.stage(t.Context()), kind)
				if got, err := b.records.Read(b.id); err != nil || got != want {
					t.Errorf("record %+v, %v, want %+v", got, err, want)
				}
			}
			if len(b.mounts) != mounts || !d.connected {
				t.Errorf("mounts %v, connected %t", b.mounts, d.connected)
			}
		}
		t.Run(name+", with other flags", func(t *testing.T) {
			restage(
				t, mountCapability("ext4"), volume.KindAlreadyExists,
				func(b *testNode, _ *fakeDisk) { b.capability = mountCapability("ext4", "ro") },
			)
		})
		t.Run(name+", with another filesystem", func(t *testing.T) {
			restage(
				t, mountCapability("ext4"), volume.KindAlreadyExists,
				func(b *testNode, _ *fakeDisk) { b.capability = mountCapability("xfs") },
			)
		})
		for kind, err := range refused {
			t.Run(name+", with other flags, unread, "+err.Error(), func(t *testing.T) {
				restage(
					t, mountCapability("ext4"), kind,
					func(b *testNode, _ *fakeDisk) { b.capability, b.fail["probe"] = mountCapability("ext4", "ro"), err },
				)
			})
			t.Run(name+", at another path, "+err.Error(), func(t *testing.T) {
				restage(
					t, mountCapability("ext4"), kind, func(b *testNode, _ *fakeDisk) { b.staging += "-2"; b.fail["mount"] = err },
				)
			})
			t.Run(name+", raw, read-only, "+err.Error(), func(t *testing.T) {
				restage(t, blockCapability(), kind, func(b *testNode, _ *fakeDisk) {
					b.capability, b.fail["await"] = singleNodeReader(blockCapability()), err
				})
			})
		}
	}
}

// A stage that is refused changes no record: otherwise the volume would no longer grow with its
// device.
func TestRefusedStageKeepsTheRecord(t *testing.T) {
	for name, capability := range map[string]*csi.VolumeCapability{
		"read-only": mountCapability("ext4", "ro"), "another type": mountCapability("xfs"), "raw": blockCapability(),
	} {
		t.Run(name, func(t *testing.T) {
			b := newTestNode(t, mountCapability("ext4"))
			d := b.stageAndPublish(t, volume.GiB)
			before, err := b.records.Read(b.id)
			if err != nil || before.ID != b.id {
				t.Fatalf("record %+v, %v", before, err)
			}
			other := *b
			other.capability = capability
			if err := other.stage(t.Context()); err == nil {
				t.Fatal("staged in two ways")
			}
			after, err := b.records.Read(b.id)
			if err != nil || after != before {
				t.Errorf("the record is now %+v, was %+v (%v)", after, before, err)
			}
			d.backendSize, d.deviceSize = 2*volume.GiB, 2*volume.GiB
			if _, err := b.growToDevice(t.Context(), b.id); err != nil || d.content.Size != 2*volume.GiB {
				t.Errorf("grown to %s, %v", d.content.Size, err)
			}
		})
	}
}

// A stage that finds the volume mounted as requested, and then fails for a device that is still too
// small, records the new size: the device must reach it.
func TestFailedRestageOfAMountedVolumeRecordsTheNewSize(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	d := b.add(b.id, volume.GiB)
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.backendSize, d.ignoresRescan = 2*volume.GiB, true
	volumetest.WantKind(t, b.stage(contextWithTimeout(t)), volume.KindDeadline)
	if r, err := b.records.Read(b.id); err != nil || r.Size != 2*volume.GiB {
		t.Errorf("got record %+v, %v, want the size 2 GiB", r, err)
	}
}

// A record that cannot be read does not prove that the volume has no mapping: unstage closes what a
// crash may have left of one.
func TestUnstageWithADamagedRecordClosesTheMapping(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	b.add(b.id, volume.GiB)
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	writeFile(t, b.records.Path("staged-", b.id)+".json", "{")
	if err := b.unstage(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := b.countCalls("luks-close"); got != 1 {
		t.Errorf("got %d calls that close a mapping, want 1", got)
	}
}
