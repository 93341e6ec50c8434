package node

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/volume"
)

// singleNodeReader is the capability, to be read on one node only.
func singleNodeReader(c *csi.VolumeCapability) *csi.VolumeCapability {
	c.AccessMode.Mode = csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY
	return c
}

// A restage that fails, in whatever way, leaves the record of what is staged,
// also when it is repeated.
func TestFailedRestageKeepsTheRecord(t *testing.T) {
	refused := map[volume.Kind]error{
		volume.KindPrecondition: volume.Errorf(volume.KindPrecondition, "for good"), volume.KindDeadline: volume.Errorf(volume.KindDeadline, "for now"),
	}
	for name, newBench := range map[string]func(*testing.T, *csi.VolumeCapability) *testNode{"plain": newTestNode, "encrypted": newEncryptedTestNode} {
		restage := func(t *testing.T, staged *csi.VolumeCapability, kind volume.Kind, change func(b *testNode, d *fakeDisk)) {
			t.Helper()
			b := newBench(t, staged)
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
				wantKind(t, b.stage(t.Context()), kind)
				if got, err := b.records.Read(b.id); err != nil || got != want {
					t.Errorf("record %+v, %v, want %+v", got, err, want)
				}
			}
			if len(b.mounts) != mounts || !d.connected {
				t.Errorf("mounts %v, connected %t", b.mounts, d.connected)
			}
		}
		t.Run(name+", with other flags", func(t *testing.T) {
			restage(t, mountCapability("ext4"), volume.KindAlreadyExists, func(b *testNode, _ *fakeDisk) { b.capability = mountCapability("ext4", "ro") })
		})
		t.Run(name+", with another filesystem", func(t *testing.T) {
			restage(t, mountCapability("ext4"), volume.KindAlreadyExists, func(b *testNode, _ *fakeDisk) { b.capability = mountCapability("xfs") })
		})
		for kind, err := range refused {
			t.Run(name+", with other flags, unread, "+err.Error(), func(t *testing.T) {
				restage(t, mountCapability("ext4"), kind, func(b *testNode, _ *fakeDisk) { b.capability, b.fail["probe"] = mountCapability("ext4", "ro"), err })
			})
			t.Run(name+", at another path, "+err.Error(), func(t *testing.T) {
				restage(t, mountCapability("ext4"), kind, func(b *testNode, _ *fakeDisk) { b.staging += "-2"; b.fail["mount"] = err })
			})
			t.Run(name+", raw, read-only, "+err.Error(), func(t *testing.T) {
				restage(t, blockCapability(), kind, func(b *testNode, _ *fakeDisk) {
					b.capability, b.fail["await"] = singleNodeReader(blockCapability()), err
				})
			})
		}
	}
}

// The answer is on its way before the caller's deadline, whatever the retreat
// waits for.
func TestRetreatEndsBeforeTheDeadlineOfTheCall(t *testing.T) {
	for _, patience := range []time.Duration{100 * time.Millisecond, time.Second, time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			b := newTestNode(t, mountCapability("ext4"))
			d := b.add(b.id, volume.GiB)
			b.fail["format"] = volume.Errorf(volume.KindPrecondition, "mkfs is missing")
			publish, err := b.lockPublish(t.Context(), b.id) // a publication that hangs
			if err != nil {
				t.Fatal(err)
			}
			defer publish.Release()
			start := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			wantKind(t, b.stage(ctx), volume.KindPrecondition, "mkfs is missing")
			if took := time.Since(start); took >= patience || took > rollbackTimeout || !d.connected {
				t.Errorf("answered after %s of %s; connected %t", took, patience, d.connected)
			}
		})
	}
}
