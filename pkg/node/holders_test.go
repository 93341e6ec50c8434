package node

import (
	"errors"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/volume"
)

// A second PersistentVolume of the same handle, without the encryption, must
// not get the disk below the mapping.
func TestDiskBelowTheMappingIsNotUsedDirectly(t *testing.T) {
	for name, staged := range map[string]*csi.VolumeCapability{"raw": blockCap(), "mounted": mountCap("ext4")} {
		t.Run(name, func(t *testing.T) {
			b := newEncrypted(t, staged)
			d := b.add(b.id, volume.GiB)
			if err := b.stage(t.Context()); err != nil {
				t.Fatal(err)
			}
			mounts := len(b.mounts)
			b.context, b.staging = nil, b.staging+"-2"
			for _, capability := range []*csi.VolumeCapability{blockCap(), mountCap("ext4")} {
				b.capability = capability
				wantKind(t, b.stage(t.Context()), volume.Precondition, "the volume is ", "next step")
			}
			if err := b.removeRecord(b.id); err != nil { // nothing else says that it is encrypted
				t.Fatal(err)
			}
			b.capability = blockCap()
			wantKind(t, b.publish(t.Context(), false), volume.Precondition, "the volume is ", "next step")
			if len(b.mounts) != mounts || b.mapped[b.id] != d || !d.connected {
				t.Errorf("mounts %v, mapping %t, connected %t", b.mounts, b.mapped[b.id] == d, d.connected)
			}
			if r, err := b.readRecord(b.id); err != nil || r.ID != "" {
				t.Errorf("record %+v, %v", r, err)
			}
		})
	}
}

// A mapping that somebody else has made is in the way while it is mounted.
// What a pod has made on its raw device, and mounted where only the pod sees
// it, must not keep the pod from its volume after a restart.
func TestRawVolumeBelowAMappingOfOthers(t *testing.T) {
	needNodes(t)
	b := newBench(t, blockCap())
	d := b.use(t, volume.GiB)
	d.crypt, d.luks.plugged = volume.GiB-header, d.plugged
	if err := b.unpublish(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(b.stage(t.Context()), b.publish(t.Context(), false), b.unpublish(t.Context())); err != nil {
		t.Fatal(err)
	}
	b.put("/elsewhere", onMapping(d))
	wantKind(t, b.stage(t.Context()), volume.Precondition, "mounted at /elsewhere")
	wantKind(t, b.publish(t.Context(), false), volume.Precondition, "mounted at /elsewhere")
}

// A node whose device mapper does not answer still gives plain volumes back.
func TestPlainVolumeNeedsNoDeviceMapper(t *testing.T) {
	for name, lost := range map[string]bool{"with a record": false, "without a record": true} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, mountCap("ext4"))
			d := b.add(b.id, volume.GiB)
			for _, call := range []string{"luks-find", "luks-close"} {
				b.fail[call] = errors.New("no device mapper control")
			}
			if err := b.stage(t.Context()); err != nil {
				t.Fatal(err)
			}
			if lost {
				if err := b.removeRecord(b.id); err != nil {
					t.Fatal(err)
				}
			}
			if err := b.unstage(t.Context()); err != nil {
				t.Fatal(err)
			}
			wantClosed(t, b, d)
			b.fail["mount"] = volume.Errorf(volume.Precondition, "the kernel has no ext4")
			wantKind(t, b.stage(t.Context()), volume.Precondition, "no ext4")
			wantClosed(t, b, d) // the retreat too
		})
	}
}

// An encrypted volume is not given back while its mapping cannot be asked for.
func TestEncryptedVolumeIsNotTakenForPlain(t *testing.T) {
	b := newEncrypted(t, mountCap("ext4"))
	d := b.add(b.id, volume.GiB)
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.removeRecord(b.id); err != nil {
		t.Fatal(err)
	}
	b.fail["luks-find"] = errors.New("no device mapper control")
	if err := b.unstage(t.Context()); err == nil || !d.connected || b.mapped[b.id] != d {
		t.Errorf("%v; connected %t, mapping %t", err, d.connected, b.mapped[b.id] == d)
	}
	delete(b.fail, "luks-find")
	b.fail["holders"] = errors.New("sysfs is unreadable")
	if err := b.unstage(t.Context()); err == nil || !d.connected || b.mapped[b.id] != d {
		t.Errorf("%v; connected %t, mapping %t", err, d.connected, b.mapped[b.id] == d)
	}
}
