package node

import (
	"errors"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/volume"
)

// A second PersistentVolume of the same handle, without the encryption, must
// not get the disk below the mapping.
func TestDiskBelowTheMappingIsNotUsedDirectly(t *testing.T) {
	for name, staged := range map[string]*csi.VolumeCapability{"raw": blockCapability(), "mounted": mountCapability("ext4")} {
		t.Run(name, func(t *testing.T) {
			b := newEncryptedTestNode(t, staged)
			d := b.add(b.id, volume.GiB)
			if err := b.stage(t.Context()); err != nil {
				t.Fatal(err)
			}
			mounts := len(b.mounts)
			b.context, b.staging = nil, b.staging+"-2"
			for _, capability := range []*csi.VolumeCapability{blockCapability(), mountCapability("ext4")} {
				b.capability = capability
				wantKind(t, b.stage(t.Context()), volume.KindPrecondition, "the volume is ", "next step")
			}
			if err := b.records.Remove(b.id); err != nil { // nothing else says that it is encrypted
				t.Fatal(err)
			}
			b.capability = blockCapability()
			wantKind(t, b.publish(t.Context(), false), volume.KindPrecondition, "the volume is ", "next step")
			if len(b.mounts) != mounts || b.mappedDisks[b.id] != d || !d.connected {
				t.Errorf("mounts %v, mapping %t, connected %t", b.mounts, b.mappedDisks[b.id] == d, d.connected)
			}
			if r, err := b.records.Read(b.id); err != nil || r.ID != "" {
				t.Errorf("record %+v, %v", r, err)
			}
		})
	}
}

// A mapping that somebody else has made is in the way while it is mounted.
// What a pod has made on its raw device, and mounted where only the pod sees
// it, must not keep the pod from its volume after a restart.
func TestRawVolumeBelowAMappingOfOthers(t *testing.T) {
	requireDeviceNodes(t)
	b := newTestNode(t, blockCapability())
	d := b.stageAndPublish(t, volume.GiB)
	d.mappingSize, d.luks.plugCount = volume.GiB-headerSize, d.plugCount
	if err := b.unpublish(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(b.stage(t.Context()), b.publish(t.Context(), false), b.unpublish(t.Context())); err != nil {
		t.Fatal(err)
	}
	b.addMount("/elsewhere", mountOfMapping(d))
	wantKind(t, b.stage(t.Context()), volume.KindPrecondition, "mounted at /elsewhere")
	wantKind(t, b.publish(t.Context(), false), volume.KindPrecondition, "mounted at /elsewhere")
}

// A node whose device mapper does not answer still gives plain volumes back.
func TestPlainVolumeNeedsNoDeviceMapper(t *testing.T) {
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
			wantKind(t, b.stage(t.Context()), volume.KindPrecondition, "no ext4")
			wantClosed(t, b, d) // the retreat too
		})
	}
}

// An encrypted volume is not given back while its mapping cannot be asked for.
func TestEncryptedVolumeIsNotTakenForPlain(t *testing.T) {
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

// A request that is refused must not change the mode of the disk that is in
// use.
func TestRefusedStageKeepsTheModeOfTheDisk(t *testing.T) {
	requireDeviceNodes(t)
	const several, writer = csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY, csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER
	for name, newBench := range map[string]func(*testing.T, *csi.VolumeCapability) *testNode{"plain": newTestNode, "encrypted": newEncryptedTestNode} {
		for kind, capability := range map[string]func() *csi.VolumeCapability{
			"mounted": func() *csi.VolumeCapability { return mountCapability("ext4") }, "raw": blockCapability,
		} {
			t.Run(name+", "+kind, func(t *testing.T) {
				b := newBench(t, capability())
				d := b.stageAndPublish(t, volume.GiB)
				guarded, back := capability(), capability()
				guarded.AccessMode.Mode, back.AccessMode.Mode = several, writer
				b.capability = guarded
				b.staging += "-2"
				wantKind(t, b.stage(t.Context()), volume.KindAlreadyExists, "read-only", "next step")
				if d.readOnly {
					t.Fatal("the disk was made read-only under its user")
				}
				b.staging = strings.TrimSuffix(b.staging, "-2")
				if err := errors.Join(b.unpublish(t.Context()), b.unstage(t.Context()), b.stage(t.Context()), b.publish(t.Context(), true)); err != nil {
					t.Fatal(err)
				}
				if err := b.stage(t.Context()); err != nil || !d.readOnly { // kubelet has restarted
					t.Errorf("staged again: %v; read-only %t", err, d.readOnly)
				}
				b.capability = back
				wantKind(t, b.stage(t.Context()), volume.KindAlreadyExists, "read-only", "next step")
				if !d.readOnly {
					t.Error("the disk was made writable under its readers")
				}
			})
		}
	}
}
