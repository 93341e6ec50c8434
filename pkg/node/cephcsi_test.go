package node

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// This file tests volumes that ceph-csi's node plugin has staged before this plugin replaced it.

// stageByCephCSI stages and publishes the volume as ceph-csi does.
func (b *testNode) stageByCephCSI(t *testing.T) (d *fakeDisk, staged string) {
	t.Helper()
	d = b.add(b.id, volume.GiB)
	d.connected, d.content = true, ext4Signature()
	staged = filepath.Join(b.staging, b.id)
	writeFile(t, filepath.Join(b.staging, "image-meta.json"), `{"Version":3,"pool":"volumes","image":"csi-vol-1"}`)
	mount := mountOf
	if b.capability.GetBlock() != nil {
		mount = nodeMountOf
		writeFile(t, staged, "")
		writeFile(t, b.target, "")
	} else {
		for _, dir := range []string{staged, b.target} {
			if err := os.MkdirAll(dir, 0o700); err != nil {
				t.Fatal(err)
			}
		}
	}
	b.addMount(staged, mount(d))
	b.addMount(b.target, mount(d))
	return d, staged
}

func bothCapabilities() map[string]*csi.VolumeCapability {
	return map[string]*csi.VolumeCapability{"mount": mountCapability("ext4"), "block": blockCapability()}
}

func TestVolumeThatCephCSIHasStagedIsUnstaged(t *testing.T) {
	for name, capability := range bothCapabilities() {
		t.Run(name, func(t *testing.T) {
			b := newTestNode(t, capability)
			d, staged := b.stageByCephCSI(t)
			volumetest.WantKind(t, b.unstage(t.Context()), volume.KindPrecondition, b.target)
			if !d.connected {
				t.Error("the volume was disconnected while a pod uses it")
			}
			for range 2 {
				if err := b.unpublish(t.Context()); err != nil {
					t.Fatal(err)
				}
				if err := b.unstage(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if d.connected || len(b.mounts) > 0 || fileExists(staged) {
				t.Errorf("connected %t, mounts %v, %s exists: %t", d.connected, b.mounts, staged, fileExists(staged))
			}
			if err := os.Remove(b.staging); err != nil { // as kubelet does
				t.Error(err)
			}
		})
	}
}

// A mount that is not the volume's is left alone, and nothing is removed.
func TestForeignMountAtThePlaceOfCephCSIStays(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	d, staged := b.stageByCephCSI(t)
	b.mounts = nil
	b.addMount(staged, tmpfs("/"))
	volumetest.WantKind(t, b.unstage(t.Context()), volume.KindPrecondition, staged)
	if !d.connected || len(b.mounts) != 1 || !fileExists(filepath.Join(b.staging, "image-meta.json")) {
		t.Errorf("connected %t, mounts %v", d.connected, b.mounts)
	}
}

// Files below the staging path are removed only if ceph-csi has staged the volume there, and only
// if nothing is lost.
func TestContentOfTheStagingPathStays(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	writeFile(t, filepath.Join(b.staging, b.id), "data")
	if err := b.unstage(t.Context()); err != nil || !fileExists(filepath.Join(b.staging, b.id)) {
		t.Errorf("%v; a file was removed that ceph-csi has not made", err)
	}
	b = newTestNode(t, mountCapability("ext4"))
	_, staged := b.stageByCephCSI(t)
	b.mounts = []filesystem.Mount{}
	writeFile(t, filepath.Join(staged, "data"), "data")
	volumetest.WantKind(t, b.unstage(t.Context()), volume.KindInternal, staged)
	if !fileExists(filepath.Join(staged, "data")) {
		t.Error("data was removed")
	}
}

// A volume that ceph-csi has staged grows in use, without being staged again.
func TestVolumeThatCephCSIHasStagedIsExpanded(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	d, _ := b.stageByCephCSI(t)
	d.backendSize, d.deviceSize = 2*volume.GiB, 2*volume.GiB
	size, err := b.expand(t.Context(), 2*volume.GiB)
	if err != nil || size != 2*volume.GiB || b.filesystemSize(d) != 2*volume.GiB {
		t.Errorf("got %s, %v; the filesystem has %s", size, err, b.filesystemSize(d))
	}
}

// A second pod of the node gets the volume that ceph-csi has staged.
func TestVolumeThatCephCSIHasStagedIsPublished(t *testing.T) {
	for name, capability := range bothCapabilities() {
		t.Run(name, func(t *testing.T) {
			if name == "block" {
				requireDeviceNodes(t)
			}
			b := newTestNode(t, capability)
			d, _ := b.stageByCephCSI(t)
			b.target = filepath.Join(filepath.Dir(filepath.Dir(b.target)), "pod-2", "mount")
			if err := b.publish(t.Context(), false); err != nil {
				t.Fatal(err)
			}
			last := b.mounts[len(b.mounts)-1]
			if last.MountPoint != b.target || !b.isOnDisk(last, d) && last.DeviceNode != diskNumberOf(d) {
				t.Errorf("the last mount is %+v", last)
			}
		})
	}
}

// The content of a volume does not decide where the volume is mounted.
func TestStashInTheVolumeItselfIsNoStaging(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	d := b.stageAndPublish(t, volume.GiB)
	writeFile(t, filepath.Join(b.staging, "image-meta.json"), "{}") // the fake mounts hide nothing
	d.backendSize, d.deviceSize = 2*volume.GiB, 2*volume.GiB
	if size, err := b.expand(t.Context(), 2*volume.GiB); err != nil || size != 2*volume.GiB {
		t.Errorf("got %s, %v", size, err)
	}
	b.target += "-2"
	if err := b.publish(t.Context(), false); err != nil {
		t.Error(err)
	}
}
