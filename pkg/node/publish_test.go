package node

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// A read-only filesystem is never bound for writing.
func TestPublishForWritingBindsNoReadOnlyFilesystem(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	b.add(b.id, volume.GiB)
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.mounts[0].SuperOptions = []string{"ro"}
	volumetest.WantKind(t, b.publish(t.Context(), false), volume.KindPrecondition, "kernel log")
	if b.countCalls("bind") != 0 {
		t.Error("it was bound")
	}
}

// A read-only staging mount gives no writable publication.
func TestPublishForWritingFailsOnAReadOnlyStagingMount(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	b.add(b.id, volume.GiB)
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.mounts[0].Options = []string{"ro"}
	volumetest.WantKind(t, b.publish(t.Context(), false), volume.KindPrecondition, "read-only=true", b.staging)
	if len(b.mounts) != 1 {
		t.Errorf("mounts %+v", b.mounts)
	}
}

// Raw and mounted at the same time would be two writers that do not know of each other.
func TestPublishFailsWhileTheVolumeIsUsedInTheOtherWay(t *testing.T) {
	requireDeviceNodes(t)
	for name, mapped := range map[string]bool{"on the disk": false, "on a mapping": true} {
		t.Run(name, func(t *testing.T) {
			b := newTestNode(t, mountCapability("ext4"))
			d := b.add(b.id, volume.GiB)
			if err := b.stage(t.Context()); err != nil {
				t.Fatal(err)
			}
			if mapped {
				d.mappingSize = volume.GiB - headerSize
				b.mounts[0].Device.Major = cryptMajor
			} else {
				raw := *b
				raw.capability = blockCapability()
				volumetest.WantKind(t, raw.publish(t.Context(), false), volume.KindPrecondition, "mounted", b.staging)
			}
			b.addMount("/raw", nodeMountOf(d))
			volumetest.WantKind(t, b.publish(t.Context(), false), volume.KindPrecondition, "raw device", "/raw")
			b.mounts[1].Root += "//deleted" // the node of a disk that had the number before
			if err := b.publish(t.Context(), false); err != nil {
				t.Error(err)
			}
		})
	}
}

// A raw volume has no mount that keeps its disk in place: the disk that the connector locates is
// verified.
func TestRawPublishVerifiesTheDisk(t *testing.T) {
	b := newTestNode(t, blockCapability())
	d := b.add(b.id, volume.GiB)
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.serial = "vol-2"
	volumetest.WantKind(t, b.publish(t.Context(), false), volume.KindPrecondition, "another volume")
	if len(b.mounts) != 0 {
		t.Errorf("published: %+v", b.mounts)
	}
}

// The device node at the target path has the number of the volume, but its disk is gone: it is not
// what the request asks for.
func TestRawPublishFailsOverAStaleNode(t *testing.T) {
	requireDeviceNodes(t)
	b := newTestNode(t, blockCapability())
	b.stageAndPublish(t, volume.GiB)
	b.mounts[0].Root += "//deleted"
	volumetest.WantKind(t, b.publish(t.Context(), false), volume.KindAlreadyExists, b.target)
}

func TestPublishForWritingFailsOnAReadOnlyFilesystem(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	b.add(b.id, volume.GiB)
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.mounts[0].SuperOptions = []string{"ro"}
	volumetest.WantKind(t, b.publish(t.Context(), false), volume.KindPrecondition, "read-only")
}

func TestStageAndPublishFailWhereMountsDoNotPropagate(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	b.add(b.id, volume.GiB)
	b.mountsArePrivate = true
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err) // not asked for: the plugin may run on the node itself
	}
	b.opts.RequireShared = true
	volumetest.WantKind(t, b.publish(t.Context(), false), volume.KindPrecondition, "Bidirectional")
	if err := b.unstage(t.Context()); err != nil {
		t.Fatal(err)
	}
	volumetest.WantKind(t, b.stage(t.Context()), volume.KindPrecondition, "Bidirectional")
}

func TestPublishIsIdempotent(t *testing.T) {
	for name, capability := range map[string]*csi.VolumeCapability{
		"mount": mountCapability("ext4"), "block": blockCapability(),
	} {
		t.Run(name, func(t *testing.T) {
			if name == "block" && unix.Geteuid() != 0 {
				t.Skip("making a device node needs root")
			}
			b := newTestNode(t, capability)
			b.stageAndPublish(t, volume.GiB)
			before := len(b.mounts)
			if err := b.publish(t.Context(), false); err != nil {
				t.Fatal(err)
			}
			if len(b.mounts) != before {
				t.Errorf("a second mount is stacked on the first: %v", b.mounts)
			}
			for range 2 {
				if err := b.unpublish(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := os.Lstat(b.target); !errors.Is(err, os.ErrNotExist) {
				t.Error("the target path is left behind")
			}
		})
	}
}

func TestPublishFailsWithoutAMount(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(t *testing.T, b *testNode)
		kind    volume.Kind
	}{
		"not staged": {func(*testing.T, *testNode) {}, volume.KindPrecondition},
		"staged, but the staging path holds another volume": {func(t *testing.T, b *testNode) {
			t.Helper()
			if err := b.stage(t.Context()); err != nil {
				t.Fatal(err)
			}
			b.disks[b.id].serial = "vol-2"
		}, volume.KindPrecondition},
		"a file with content is at the target path": {func(t *testing.T, b *testNode) {
			t.Helper()
			if err := b.stage(t.Context()); err != nil {
				t.Fatal(err)
			}
			writeFile(t, b.target, "precious")
		}, volume.KindPrecondition},
		"a file with content is at the target path of a device": {func(t *testing.T, b *testNode) {
			t.Helper()
			b.capability = blockCapability()
			if err := b.stage(t.Context()); err != nil {
				t.Fatal(err)
			}
			writeFile(t, b.target, "precious")
		}, volume.KindPrecondition},
		"another volume is published there": {func(t *testing.T, b *testNode) {
			t.Helper()
			b.id = "vol-2"
			b.stageAndPublish(t, volume.GiB)
			b.id, b.staging = "vol-1", b.staging+"-1"
			if err := b.stage(t.Context()); err != nil {
				t.Fatal(err)
			}
		}, volume.KindAlreadyExists},
	} {
		t.Run(name, func(t *testing.T) {
			b := newTestNode(t, mountCapability("ext4"))
			b.add(b.id, volume.GiB)
			c.prepare(t, b)
			mounts := len(b.mounts)
			volumetest.WantKind(t, b.publish(t.Context(), false), c.kind)
			if len(b.mounts) != mounts {
				t.Errorf("mounts %v", b.mounts)
			}
		})
	}
}

func TestPublishMountsReadOnly(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	b.add(b.id, volume.GiB)
	if err := errors.Join(b.stage(t.Context()), b.publish(t.Context(), true)); err != nil {
		t.Fatal(err)
	}
	if m := b.mounts[len(b.mounts)-1]; m.MountPoint != b.target || !m.IsReadOnly() {
		t.Errorf("published %+v", m)
	}
	volumetest.WantKind(t, b.publish(t.Context(), false), volume.KindAlreadyExists, "read-only")
}

// kubelet enforces readOnly of a raw block claim by the device permissions of the container;
// several pods of a node may read one volume that way.
func TestRawPublishReadOnlyKeepsTheDeviceWritable(t *testing.T) {
	requireDeviceNodes(t)
	b := newTestNode(t, blockCapability())
	d := b.add(b.id, volume.GiB)
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	first := b.target
	for _, target := range []string{first, first + "-2"} {
		b.target = target
		for range 2 { // the second call finds it done
			if err := b.publish(t.Context(), true); err != nil {
				t.Fatal(err)
			}
		}
		volumetest.WantKind(t, b.publish(t.Context(), false), volume.KindAlreadyExists, "read-only=true", target)
	}
	if len(b.mounts) != 2 || !b.mounts[0].IsReadOnly() || !b.mounts[1].IsReadOnly() || d.readOnly {
		t.Errorf("mounts %+v, device read-only %t", b.mounts, d.readOnly)
	}
	b.capability.AccessMode.Mode = csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER
	b.target = first + "-3"
	volumetest.WantKind(t, b.publish(t.Context(), true), volume.KindPrecondition, first)
}

func TestSingleWriterIsPublishedAtOnePathOnly(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	b.capability.AccessMode.Mode = csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER
	b.stageAndPublish(t, volume.GiB)
	first := b.target
	b.target = filepath.Join(t.TempDir(), "second")
	volumetest.WantKind(t, b.publish(t.Context(), false), volume.KindPrecondition, first)
	again := b.target
	b.target = first
	subPath := b.mounts[len(b.mounts)-1]
	subPath.MountPoint += "-subpath" // as kubelet makes them for the pod
	fakeFilesystems{b.machine}.mount(subPath)
	if err := b.publish(t.Context(), false); err != nil {
		t.Errorf("the same publication again: %v", err)
	}
	b.target = again
	b.capability.AccessMode.Mode = csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER
	if err := b.publish(t.Context(), false); err != nil {
		t.Errorf("several writers of one node: %v", err)
	}
}
