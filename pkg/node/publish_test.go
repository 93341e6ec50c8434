package node

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/volume"
)

func TestUnstage(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	d := b.stageAndPublish(t, volume.GiB)
	wantKind(t, b.unstage(t.Context()), volume.KindPrecondition, b.target) // still published: it must not be cut off
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
	wantKind(t, b.unstage(t.Context()), volume.KindPrecondition, b.staging)
	other.connected = false // never staged here
	wantKind(t, b.unstage(t.Context()), volume.KindPrecondition, b.staging)
	if len(b.mounts) != 1 {
		t.Errorf("mounts %v", b.mounts)
	}
}

func TestUnpublishLeavesAnotherVolumeAlone(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	b.stageAndPublish(t, volume.GiB)
	b.add("vol-2", volume.GiB)
	b.id = "vol-2"
	wantKind(t, b.unpublish(t.Context()), volume.KindPrecondition, b.target)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(b.target, link); err != nil {
		t.Fatal(err)
	}
	b.id, b.target = "vol-1", link
	wantKind(t, b.unpublish(t.Context()), volume.KindPrecondition, "symbolic link")
	b.target = filepath.Join(t.TempDir(), "tmpfs")
	fakeFilesystems{b.machine}.mount(filesystem.Mount{MountPoint: b.target, FSType: "tmpfs", Root: "/", Source: "tmpfs"})
	wantKind(t, b.unpublish(t.Context()), volume.KindPrecondition, "tmpfs")
	if len(b.mounts) != 3 {
		t.Errorf("mounts %v", b.mounts)
	}
}

func TestUnstageOfAPublishedRawVolume(t *testing.T) {
	b := newTestNode(t, blockCapability())
	d := b.stageAndPublish(t, volume.GiB)
	wantKind(t, b.unstage(t.Context()), volume.KindPrecondition, b.target)
	if !d.connected {
		t.Error("disconnected all the same")
	}
}

func TestUnstageOfAVolumeThatIsGone(t *testing.T) {
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

func TestPublishForWritingOnAReadOnlyFilesystem(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	b.add(b.id, volume.GiB)
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.mounts[0].SuperOptions = []string{"ro"}
	wantKind(t, b.publish(t.Context(), false), volume.KindPrecondition, "read-only")
}

func TestMountsMustPropagate(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	b.add(b.id, volume.GiB)
	b.mountsArePrivate = true
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err) // not asked for: the plugin may run on the node itself
	}
	b.opts.RequireShared = true
	wantKind(t, b.publish(t.Context(), false), volume.KindPrecondition, "Bidirectional")
	if err := b.unstage(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantKind(t, b.stage(t.Context()), volume.KindPrecondition, "Bidirectional")
}

func TestPublishIsIdempotent(t *testing.T) {
	for name, capability := range map[string]*csi.VolumeCapability{"mount": mountCapability("ext4"), "block": blockCapability()} {
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

func TestPublishRefusals(t *testing.T) {
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
		"a file with content is in the way": {func(t *testing.T, b *testNode) {
			t.Helper()
			if err := b.stage(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(os.MkdirAll(filepath.Dir(b.target), 0o700), os.WriteFile(b.target, []byte("precious"), 0o600)); err != nil {
				t.Fatal(err)
			}
		}, volume.KindPrecondition},
		"a file with content is in the way of a device": {func(t *testing.T, b *testNode) {
			t.Helper()
			b.capability = blockCapability()
			if err := errors.Join(b.stage(t.Context()), os.MkdirAll(filepath.Dir(b.target), 0o700), os.WriteFile(b.target, []byte("precious"), 0o600)); err != nil {
				t.Fatal(err)
			}
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
			wantKind(t, b.publish(t.Context(), false), c.kind)
			if len(b.mounts) != mounts {
				t.Errorf("mounts %v", b.mounts)
			}
		})
	}
}

func TestUnpublishRemovesNoContent(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	precious := filepath.Join(b.target, "precious")
	if err := errors.Join(os.MkdirAll(b.target, 0o700), os.WriteFile(precious, []byte("data"), 0o600)); err != nil {
		t.Fatal(err)
	}
	wantKind(t, b.unpublish(t.Context()), volume.KindInternal, b.target)
	if _, err := os.Stat(precious); err != nil {
		t.Errorf("content is gone: %v", err)
	}
}

func TestPublishReadOnly(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	b.add(b.id, volume.GiB)
	if err := errors.Join(b.stage(t.Context()), b.publish(t.Context(), true)); err != nil {
		t.Fatal(err)
	}
	if m := b.mounts[len(b.mounts)-1]; m.MountPoint != b.target || !m.IsReadOnly() {
		t.Errorf("published %+v", m)
	}
	wantKind(t, b.publish(t.Context(), false), volume.KindAlreadyExists, "read-only")
}

// kubelet enforces readOnly of a raw block claim by the container's device
// permissions; several pods of a node may read one volume that way.
func TestBlockIsPublishedReadOnlyOnAWritableDevice(t *testing.T) {
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
		wantKind(t, b.publish(t.Context(), false), volume.KindAlreadyExists, "read-only=true", target)
	}
	if len(b.mounts) != 2 || !b.mounts[0].IsReadOnly() || !b.mounts[1].IsReadOnly() || d.readOnly {
		t.Errorf("mounts %+v, device read-only %t", b.mounts, d.readOnly)
	}
	b.capability.AccessMode.Mode = csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER
	b.target = first + "-3"
	wantKind(t, b.publish(t.Context(), true), volume.KindPrecondition, first)
}

// requireDeviceNodes skips where the test cannot make device nodes.
func requireDeviceNodes(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("making a device node needs root")
	}
}

func TestSingleWriterIsPublishedAtOnePathOnly(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	b.capability.AccessMode.Mode = csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER
	b.stageAndPublish(t, volume.GiB)
	first := b.target
	b.target = filepath.Join(t.TempDir(), "second")
	wantKind(t, b.publish(t.Context(), false), volume.KindPrecondition, first)
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
