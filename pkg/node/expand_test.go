package node

import (
	"context"
	"errors"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

func TestExpandGrowsDeviceThenFilesystem(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	d := b.stageAndPublish(t, volume.GiB)
	for _, size := range []volume.Size{2 * volume.GiB, 2 * volume.GiB, 6 * volume.GiB} {
		d.backendSize = size
		got, err := b.expand(t.Context(), size)
		if err != nil || got != size {
			t.Fatalf("expanded to %s: %s, %v", size, got, err)
		}
		if d.deviceSize != size || d.content.Size != size {
			t.Errorf("device %s, filesystem %s after the expansion to %s", d.deviceSize, d.content.Size, size)
		}
	}
}

func TestExpandGrowsARawVolume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("making a device node needs root")
		}
		b := newTestNode(t, blockCapability())
		d := b.stageAndPublish(t, volume.GiB)
		d.backendSize = 3 * volume.GiB
		if got, err := b.expand(t.Context(), 3*volume.GiB); err != nil || got != 3*volume.GiB || d.deviceSize != got {
			t.Errorf("%s, %v; the device shows %s", got, err, d.deviceSize)
		}
		if b.countCalls("grow") != 0 {
			t.Error("a filesystem was grown on a raw volume")
		}
		d.backendSize, d.ignoresRescan = 4*volume.GiB, true
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err := b.expand(ctx, 4*volume.GiB)
		volumetest.WantKind(t, err, volume.KindDeadline, "3 GiB", "4 GiB")
	})
}

// The device does not show the growth yet, and a rescan changes nothing: the filesystem tools would
// report success. NodeExpandVolume must fail with both sizes.
func TestExpandFailsWhileTheDeviceHasTheOldSize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTestNode(t, mountCapability("ext4"))
		d := b.stageAndPublish(t, volume.GiB)
		d.backendSize, d.ignoresRescan = 2*volume.GiB, true
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err := b.expand(ctx, 2*volume.GiB)
		volumetest.WantKind(t, err, volume.KindDeadline, b.id, "1 GiB", "2 GiB")
		if b.countCalls("grow") != 1 { // the one at stage
			t.Error("the filesystem was touched")
		}
	})
}

// NodeExpandVolume checks the device size itself, whatever AwaitSize reports.
func TestExpandChecksTheSizeThatAwaitSizeReports(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	d := b.stageAndPublish(t, volume.GiB)
	d.backendSize, d.ignoresRescan, d.reportsFalseSize = 2*volume.GiB, true, true
	_, err := b.expand(t.Context(), 2*volume.GiB)
	volumetest.WantKind(t, err, volume.KindInternal, "1 GiB", "2 GiB")
}

// If the backend knows a larger size than the request, the device must reach the larger size, but
// the filesystem only the requested one.
func TestExpandWithoutCapacityGrowsToTheVolumeSize(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	d := b.stageAndPublish(t, volume.GiB)
	d.backendSize = 2 * volume.GiB
	if got, err := b.expand(t.Context(), 0); err != nil || got != 2*volume.GiB {
		t.Errorf("expanded to %s, error %v; want 2 GiB", got, err)
	}
	// But the filesystem is asked for no more than the request.
	at := make(chan filesystem.GrowRequest, 1)
	b.opts.Filesystems = recordingGrow{fakeFilesystems{b.machine}, at}
	d.backendSize = 9 * volume.GiB
	if _, err := b.expand(t.Context(), 3*volume.GiB); err != nil {
		t.Fatal(err)
	}
	if got := <-at; got.Required != 3*volume.GiB {
		t.Errorf("the filesystem is asked for %s", got.Required)
	}
}

func TestExpandGrowsAMapping(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	d := b.stageAndPublish(t, volume.GiB)
	d.mappingSize, d.luks.keyInKeyring = volume.GiB-headerSize, true
	for i := range b.mounts {
		b.mounts[i].Device = blockdev.DeviceNumber{Major: cryptMajor, Minor: d.number}
	}
	d.backendSize = 2 * volume.GiB
	_, err := b.expand(t.Context(), 2*volume.GiB)
	volumetest.WantKind(t, err, volume.KindPrecondition, "passphrase")
	resp, err := b.NodeExpandVolume(t.Context(), &csi.NodeExpandVolumeRequest{
		VolumeId: b.id, VolumePath: b.target, StagingTargetPath: b.staging,
		CapacityRange: &csi.CapacityRange{RequiredBytes: 2 << 30},
		Secrets:       map[string]string{PassphraseKey: "secret"},
	})
	if err != nil || resp.GetCapacityBytes() != 2<<30 {
		t.Fatalf("%v, %v", resp, err)
	}
	if want := 2*volume.GiB - headerSize; d.mappingSize != want || d.content.Size != want {
		t.Errorf("mapping %s, filesystem %s; want %s", d.mappingSize, d.content.Size, want)
	}
}

func TestExpandRefusesAMappingOfAnotherKind(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	d := b.stageAndPublish(t, volume.GiB)
	d.hasOtherMapping = true
	for i := range b.mounts {
		b.mounts[i].Device = blockdev.DeviceNumber{Major: cryptMajor, Minor: d.number}
	}
	d.backendSize = 2 * volume.GiB
	_, err := b.expand(t.Context(), 2*volume.GiB)
	volumetest.WantKind(t, err, volume.KindPrecondition, d.path+"-crypt")
	if b.countCalls("resize-crypt") != 0 {
		t.Error("resized as if it were dm-crypt")
	}
}

func TestExpandFailsWithoutTouchingOthers(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(t *testing.T, b *testNode)
		kind    volume.Kind
		words   []string
	}{
		"the published mount is lost: a plain directory": {
			func(_ *testing.T, b *testNode) { b.dropMount(b.target) }, volume.KindInternal, []string{"not a mount point"},
		},
		"the staging mount is lost": {
			func(_ *testing.T, b *testNode) { b.dropMount(b.staging) }, volume.KindInternal, []string{"not a mount point"},
		},
		"the path is gone": {func(t *testing.T, b *testNode) {
			t.Helper()
			b.dropMount(b.target)
			if err := os.Remove(b.target); err != nil {
				t.Fatal(err)
			}
		}, volume.KindInternal, []string{b0target}},
		"a relative path":           {func(_ *testing.T, b *testNode) { b.target = "some/path" }, volume.KindInvalid, nil},
		"the volume does not exist": {func(_ *testing.T, b *testNode) { delete(b.disks, b.id) }, volume.KindNotFound, nil},
		"the volume is not connected": {
			func(_ *testing.T, b *testNode) { b.disks[b.id].connected = false }, volume.KindInternal, []string{"not connected"},
		},
		"the device is another volume": {
			func(_ *testing.T, b *testNode) { b.disks[b.id].serial = "vol-2" }, volume.KindPrecondition,
			[]string{"another volume"},
		},
		"the capability contradicts": {
			func(_ *testing.T, b *testNode) { b.capability = blockCapability() }, volume.KindInternal, []string{"block device"},
		},
		"the filesystem refuses": {func(_ *testing.T, b *testNode) {
			b.fail["grow"] = volume.Errorf(volume.KindPrecondition, "needs e2fsck")
		}, volume.KindPrecondition, []string{"e2fsck"}},
		"the staging path is another mount": {
			func(_ *testing.T, b *testNode) { b.swapStaging() }, volume.KindInternal, []string{b0staging},
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newTestNode(t, mountCapability("ext4"))
			d := b.stageAndPublish(t, volume.GiB)
			d.backendSize = 2 * volume.GiB
			size := d.content.Size
			c.prepare(t, b)
			_, err := b.expand(t.Context(), 2*volume.GiB)
			volumetest.WantKind(t, err, c.kind, c.words...)
			if d.content.Size != size {
				t.Error("the filesystem was grown")
			}
		})
	}
}

// The paths of a testNode, without the temporary directory.
const (
	b0target  = "pod/mount"
	b0staging = "staging"
)

// swapStaging puts another volume at the staging path.
func (b *testNode) swapStaging() {
	other := b.add("vol-2", volume.GiB)
	other.connected = true
	b.dropMount(b.staging)
	fakeFilesystems{b.machine}.mount(filesystem.Mount{
		MountPoint: b.staging, FSType: "ext4", Source: other.path,
		Device: blockdev.DeviceNumber{Major: diskMajor, Minor: other.number}, Options: []string{"rw"},
	})
}

func TestExpandUsesTheWritableMount(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	d := b.add(b.id, volume.GiB)
	if err := errors.Join(b.stage(t.Context()), b.publish(t.Context(), true)); err != nil {
		t.Fatal(err)
	}
	d.backendSize = 2 * volume.GiB
	at := make(chan filesystem.GrowRequest, 1)
	b.opts.Filesystems = recordingGrow{fakeFilesystems{b.machine}, at}
	// Without the staging path, which is optional in the request.
	_, err := b.NodeExpandVolume(
		t.Context(),
		&csi.NodeExpandVolumeRequest{
			VolumeId: b.id, VolumePath: b.target, CapacityRange: &csi.CapacityRange{RequiredBytes: 2 << 30},
		},
	)
	if err != nil {
		t.Fatal(err)
	}
	got := <-at
	if got.MountPoint != b.staging {
		t.Errorf("grown at %s, which is read-only", got.MountPoint)
	}
	if got.Required != 2*volume.GiB {
		t.Errorf("the filesystem is asked for %s", got.Required)
	}
}

type recordingGrow struct {
	fakeFilesystems
	at chan<- filesystem.GrowRequest
}

func (g recordingGrow) Grow(ctx context.Context, req filesystem.GrowRequest) (filesystem.Growth, error) {
	g.at <- req
	return g.fakeFilesystems.Grow(ctx, req)
}

// The filesystem on a mapping must reach the size of the mapping, not of the volume.
func TestExpandRequiresTheMappingSizeOfTheFilesystem(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	d := b.stageAndPublish(t, volume.GiB)
	d.mappingSize, d.content.Size = volume.GiB-headerSize, volume.GiB-headerSize
	for i := range b.mounts {
		b.mounts[i].Device.Major = cryptMajor
	}
	d.backendSize = 2 * volume.GiB
	at := make(chan filesystem.GrowRequest, 1)
	b.opts.Filesystems = recordingGrow{fakeFilesystems{b.machine}, at}
	_, err := b.NodeExpandVolume(t.Context(), &csi.NodeExpandVolumeRequest{
		VolumeId: b.id, VolumePath: b.target, StagingTargetPath: b.staging,
		CapacityRange: &csi.CapacityRange{RequiredBytes: 2 << 30},
		Secrets:       map[string]string{PassphraseKey: "secret"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := (<-at).Required, 2*volume.GiB-headerSize; got != want {
		t.Errorf("the filesystem is asked for %s, want %s", got, want)
	}
}

// The disk is verified while it is open: before that its number may pass to another disk.
func TestDiskIsVerifiedWhileItIsOpen(t *testing.T) {
	for name, call := range map[string]func(*testNode, context.Context) error{
		"expand": func(b *testNode, ctx context.Context) error {
			_, err := b.expand(ctx, 2*volume.GiB)
			return err
		},
		"growth on device change": func(b *testNode, ctx context.Context) error {
			_, err := b.growToDevice(ctx, b.id)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newTestNode(t, mountCapability("ext4"))
			d := b.stageAndPublish(t, volume.GiB)
			d.backendSize, d.deviceSize = 2*volume.GiB, 2*volume.GiB
			b.hooks["open"] = func() { d.serial = "vol-2" }
			volumetest.WantKind(t, call(b, t.Context()), volume.KindPrecondition, "another volume")
			if d.content.Size != volume.GiB {
				t.Errorf("the filesystem of another volume was grown to %s", d.content.Size)
			}
		})
	}
}

// The backend says that the volume has grown, so the device will follow.
func TestExpandWaitsForTheSizeThatTheBackendKnows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTestNode(t, mountCapability("ext4"))
		d := b.add(b.id, volume.GiB)
		d.conn.PublishedSize = volume.GiB
		if err := errors.Join(b.stage(t.Context()), b.publish(t.Context(), false)); err != nil {
			t.Fatal(err)
		}
		d.backendSize, d.ignoresRescan = 4*volume.GiB, true
		_, err := b.expandWithin(t, 4*volume.GiB, time.Minute)
		volumetest.WantKind(t, err, volume.KindDeadline, "1 GiB", "4 GiB")
		if d.awaitTimeout < 50*time.Second {
			t.Errorf("waited %s for the device, want nearly all of the call's minute", d.awaitTimeout)
		}
	})
}

func TestExpandGrowsAnEncryptedFilesystem(t *testing.T) {
	b := newEncryptedTestNode(t, mountCapability("ext4"))
	d := b.stageAndPublish(t, volume.GiB)
	for _, size := range []volume.Size{2 * volume.GiB, 2 * volume.GiB, 5 * volume.GiB} {
		d.backendSize = size
		if n, err := b.expand(t.Context(), size); err != nil || n != size {
			t.Fatalf("%s, %v", n, err)
		}
		if want := size - headerSize; d.mappingSize != want || d.content.Size != want {
			t.Errorf("mapping %s, filesystem %s, want %s", d.mappingSize, d.content.Size, want)
		}
	}
}

// A volume that another driver has staged has no record. NodeExpandVolume writes one, and from then
// on the volume grows with its device.
func TestExpandRecordsAVolumeThatAnotherDriverHasStaged(t *testing.T) {
	withSizeWatcher(t, mountCapability("ext4"), func(t *testing.T, b *testNode, d *fakeDisk) {
		t.Helper()
		if err := errors.Join(b.publish(t.Context(), false), b.records.Remove(b.id)); err != nil {
			t.Fatal(err)
		}
		b.growDevice(d, 2*volume.GiB, true)
		if got := b.filesystemSize(d); got != volume.GiB {
			t.Fatalf("the filesystem has %s without a record", got)
		}
		if _, err := b.expand(t.Context(), 2*volume.GiB); err != nil {
			t.Fatal(err)
		}
		b.growDevice(d, 3*volume.GiB, true)
		if got := b.filesystemSize(d); got != 3*volume.GiB || d.content.Type != filesystem.TypeExt4 {
			t.Errorf("the filesystem has %s, want 3 GiB", got)
		}
	})
}
