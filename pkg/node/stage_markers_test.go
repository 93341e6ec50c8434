package node

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// Random data on a volume that was published raw belongs to its user.
func TestEncryptionMarkerIsRemovedWhenTheVolumeIsUsed(t *testing.T) {
	staged := func(t *testing.T) (*testNode, *fakeDisk) {
		t.Helper()
		b := newEncryptedTestNode(t, mountCapability("ext4"))
		d := b.add(b.id, volume.GiB)
		b.fail["format"] = errors.New("mkfs is missing")
		if err := b.stage(t.Context()); err == nil {
			t.Fatal("staged")
		}
		delete(b.fail, "format")
		wantMarkers(t, b, true)
		return b, d
	}
	t.Run("when the volume is used raw", func(t *testing.T) {
		b, d := staged(t)
		b.capability = blockCapability()
		if err := errors.Join(b.stage(t.Context()), b.unstage(t.Context())); err != nil {
			t.Fatal(err)
		}
		wantMarkers(t, b, false)
		b.capability = mountCapability("ext4")
		volumetest.WantKind(t, b.stage(t.Context()), volume.KindPrecondition, "random")
		wantClosed(t, b, d)
	})
	t.Run("when a filesystem is found", func(t *testing.T) {
		b, d := staged(t)
		d.content = ext4Signature()
		if err := b.stage(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantMarkers(t, b, false)
	})
	t.Run("when it leaves the node with a filesystem", func(t *testing.T) {
		b, d := staged(t)
		d.connected, d.deviceSize, d.content = true, volume.GiB, ext4Signature()
		d.mappingSize, b.mappedDisks[b.id] = volume.GiB-headerSize, d
		if err := b.unstage(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantMarkers(t, b, false)
	})
	t.Run("but not while it has none", func(t *testing.T) {
		b, d := staged(t)
		for _, open := range []bool{true, false} {
			d.connected, d.deviceSize = true, volume.GiB
			if open {
				d.mappingSize, b.mappedDisks[b.id] = volume.GiB-headerSize, d
			}
			if err := b.unstage(t.Context()); err != nil {
				t.Fatal(err)
			}
			wantMarkers(t, b, true)
		}
	})
}

// A format that was running when the plugin died leaves a marker. Once the filesystem is found
// complete the marker must go: otherwise a later loss of the superblock would be taken for the
// interrupted format.
func TestStageRemovesTheMarkerOfAFinishedFormat(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	b.add(b.id, volume.GiB).content = ext4Signature()
	marker := b.formatMarker(b.id)
	writeFile(t, marker, "{}")
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(marker); !errors.Is(err, os.ErrNotExist) {
		t.Error("the marker is still there")
	}
}

func TestMarkersAreInTheStateDirectory(t *testing.T) {
	b := newTestNode(t, nil)
	for _, id := range []string{"../../etc/passwd", "..", "a/b", "pool/image@snap", "\x00"} {
		if m := b.formatMarker(id); filepath.Dir(m) != b.opts.StateDir {
			t.Errorf("marker of %q is %q", id, m)
		}
	}
}

// An interrupted format must not be resumed after the volume was used in another way.
func TestMarkersAreRemovedWhenTheVolumeIsUsed(t *testing.T) {
	marked := func(t *testing.T, capability *csi.VolumeCapability) *testNode {
		t.Helper()
		b := newTestNode(t, capability)
		b.add(b.id, volume.GiB)
		writeFile(t, b.formatMarker(b.id), "{}")
		return b
	}
	gone := func(t *testing.T, b *testNode) {
		t.Helper()
		if _, err := os.Stat(b.formatMarker(b.id)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the marker is still there: %v", err)
		}
	}
	t.Run("when the volume is used raw", func(t *testing.T) {
		b := marked(t, blockCapability())
		if err := b.stage(t.Context()); err != nil {
			t.Fatal(err)
		}
		gone(t, b)
	})
	for name, content := range map[string]filesystem.Signature{
		"blank": {State: filesystem.StateBlank}, "complete": ext4Signature(),
	} {
		t.Run("when the volume leaves the node "+name, func(t *testing.T) {
			b := marked(t, mountCapability("ext4"))
			b.disks[b.id].connected, b.disks[b.id].content = true, content
			if err := b.unstage(t.Context()); err != nil {
				t.Fatal(err)
			}
			gone(t, b)
		})
	}
	t.Run("but not while it is half-made", func(t *testing.T) {
		b := marked(t, mountCapability("ext4"))
		b.disks[b.id].connected, b.disks[b.id].content = true, filesystem.Signature{
			State: filesystem.StateFormatted, Type: filesystem.TypeXFS,
		}
		if err := b.unstage(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(b.formatMarker(b.id)); err != nil {
			t.Error(err)
		}
	})
}
