package node

import (
	"errors"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// "noatime,ro" is read-only in every step, as for mount(8), and "ro,rw" is not.
func TestReadOnlyAmongOtherMountOptions(t *testing.T) {
	for flags, readOnly := range map[string]bool{"noatime,ro": true, "ro,noatime": true, "ro,rw": false} {
		t.Run(flags, func(t *testing.T) {
			b := newTestNode(t, mountCapability("ext4", flags))
			d := b.add(b.id, volume.GiB)
			if readOnly {
				volumetest.WantKind(t, b.stage(t.Context()), volume.KindPrecondition, "read-only") // blank: nothing to read
				d.content = ext4Signature()
			}
			for range 2 { // the second time it is what was asked for
				if err := b.stage(t.Context()); err != nil {
					t.Fatal(err)
				}
				if err := b.publish(t.Context(), false); err != nil {
					t.Fatal(err)
				}
			}
			if len(b.mounts) != 2 || b.mounts[0].IsReadOnly() != readOnly || b.mounts[1].IsReadOnly() != readOnly {
				t.Errorf("mounts %+v, want read-only=%t", b.mounts, readOnly)
			}
			if checked := b.countCalls("check") > 0; readOnly && checked || b.countCalls("grow") > 0 == readOnly {
				t.Errorf("checked %t, grown %d times", checked, b.countCalls("grow"))
			}
		})
	}
}

// A request that is refused must not change the mode of a disk in use.
func TestRefusedStageKeepsTheModeOfTheDisk(t *testing.T) {
	requireDeviceNodes(t)
	const several = csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY
	const writer = csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER
	for name, newNode := range map[string]func(*testing.T, *csi.VolumeCapability) *testNode{
		"plain": newTestNode, "encrypted": newEncryptedTestNode,
	} {
		for kind, capability := range map[string]func() *csi.VolumeCapability{
			"mounted": func() *csi.VolumeCapability { return mountCapability("ext4") }, "raw": blockCapability,
		} {
			t.Run(name+", "+kind, func(t *testing.T) {
				b := newNode(t, capability())
				d := b.stageAndPublish(t, volume.GiB)
				guarded, back := capability(), capability()
				guarded.AccessMode.Mode, back.AccessMode.Mode = several, writer
				b.capability = guarded
				b.staging += "-2"
				volumetest.WantKind(t, b.stage(t.Context()), volume.KindAlreadyExists, "read-only", "next step")
				if d.readOnly {
					t.Fatal("the disk was made read-only under its user")
				}
				b.staging = strings.TrimSuffix(b.staging, "-2")
				err := errors.Join(
					b.unpublish(t.Context()), b.unstage(t.Context()), b.stage(t.Context()), b.publish(t.Context(), true),
				)
				if err != nil {
					t.Fatal(err)
				}
				if err := b.stage(t.Context()); err != nil || !d.readOnly { // kubelet has restarted
					t.Errorf("staged again: %v; read-only %t", err, d.readOnly)
				}
				b.capability = back
				volumetest.WantKind(t, b.stage(t.Context()), volume.KindAlreadyExists, "read-only", "next step")
				if !d.readOnly {
					t.Error("the disk was made writable under its readers")
				}
			})
		}
	}
}

func TestStageReadOnlyNeitherChecksNorGrows(t *testing.T) {
	capability := mountCapability("ext4")
	capability.AccessMode.Mode = csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY
	b := newTestNode(t, capability)
	b.add(b.id, 4*volume.GiB).content = ext4Signature()
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	if b.countCalls("check")+b.countCalls("grow")+b.countCalls("format") != 0 {
		t.Errorf("calls: %v", b.calls)
	}
	if !b.mounts[0].IsReadOnly() {
		t.Error("mounted for writing")
	}
}

// The kernel must be able to write to a device that this node alone reads, because it replays the
// journal. A device that several nodes read must refuse writes.
func TestDeviceIsReadOnlyForSharedReaders(t *testing.T) {
	for _, c := range []struct {
		capability *csi.VolumeCapability
		mode       csi.VolumeCapability_AccessMode_Mode
		want       bool
	}{
		{mountCapability("ext4"), csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY, false},
		{mountCapability("ext4"), csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY, true},
		{mountCapability("ext4"), csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER, false},
		{blockCapability(), csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY, true},
	} {
		c.capability.AccessMode.Mode = c.mode
		b := newTestNode(t, c.capability)
		d := b.add(b.id, volume.GiB)
		d.content = ext4Signature()
		if err := b.stage(t.Context()); err != nil {
			t.Fatal(err)
		}
		if d.readOnly != c.want {
			t.Errorf("%v: device read-only %t", c.capability, d.readOnly)
		}
		if !c.want && c.mode != csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER && !b.mounts[0].IsReadOnly() {
			t.Errorf("%v: mounted for writing", c.capability)
		}
	}
}
