package node

import (
	"context"
	"errors"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// Another filesystem is mounted at the staging path between the check and the bind. The pod does
// not get it.
func TestPublishReadsBackWhatTheTargetShows(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	b.add(b.id, volume.GiB)
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	other := b.add("vol-2", volume.GiB)
	other.connected = true
	b.hooks["bind"] = func() { b.addMount(b.staging, mountOf(other)) }
	volumetest.WantKind(t, b.publish(t.Context(), false), volume.KindInternal, b.target, other.path, "it was unmounted")
	if len(b.mounts) != 2 || b.mounts[1].MountPoint != b.staging {
		t.Errorf("the other's mount must stay, and only the bind go: %+v", b.mounts)
	}
	b.dropMount(b.staging)
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.fail["unmount"] = volume.Errorf(volume.KindPrecondition, "busy")
	volumetest.WantKind(t, b.publish(t.Context(), false), volume.KindInternal, other.path, "could not be unmounted: busy")
	delete(b.fail, "unmount")
	delete(b.hooks, "bind")
	b.dropMount(b.target)
	b.dropMount(b.staging)
	if err := errors.Join(b.stage(t.Context()), b.publish(t.Context(), false)); err != nil {
		t.Error(err)
	}
}

// A bind mount that cannot be read is an error, and stays for the retry.
func TestPublishFailsWhenTheBindCannotBeReadBack(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	b.add(b.id, volume.GiB)
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.hooks["bind"] = func() { b.fail["by-number"] = volume.Errorf(volume.KindInternal, "sysfs is unreadable") }
	for range 2 {
		volumetest.WantKind(t, b.publish(t.Context(), false), volume.KindInternal, "sysfs is unreadable")
		if len(b.mounts) != 2 || b.countCalls("unmount") != 0 {
			t.Errorf("mounts %+v", b.mounts)
		}
	}
	clear(b.hooks)
	delete(b.fail, "by-number")
	if err := b.publish(t.Context(), false); err != nil || len(b.mounts) != 2 {
		t.Errorf("the retry: %v; mounts %+v", err, b.mounts)
	}
	if err := errors.Join(b.unpublish(t.Context()), b.unstage(t.Context())); err != nil || len(b.mounts) != 0 {
		t.Errorf("%v; mounts %+v", err, b.mounts)
	}
}

// The target path does not show the volume, and the mounts that may be below it cannot be read.
func TestPublishFailsWhenTheMountsBelowCannotBeRead(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	b.add(b.id, volume.GiB)
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	other := b.add("vol-2", volume.GiB)
	other.connected = true
	b.hooks["bind"] = func() {
		b.addMount(b.staging, mountOf(other))
		b.fail["mounts-of"] = volume.Errorf(volume.KindInternal, "mountinfo is unreadable")
	}
	volumetest.WantKind(t, b.publish(t.Context(), false), volume.KindInternal, "mountinfo is unreadable")
	if b.countCalls("unmount") != 0 {
		t.Errorf("mounts %+v", b.mounts)
	}
}

// Another program mounts over the bind mount right after the bind. Its mount stays.
func TestPublishUnmountsNothingButItsBind(t *testing.T) {
	for name, capability := range map[string]*csi.VolumeCapability{
		"mount": mountCapability("ext4"), "block": blockCapability(),
	} {
		t.Run(name, func(t *testing.T) {
			requireDeviceNodes(t)
			b := newTestNode(t, capability)
			b.add(b.id, volume.GiB)
			if err := b.stage(t.Context()); err != nil {
				t.Fatal(err)
			}
			other := b.add("vol-2", volume.GiB)
			other.connected = true
			covered := false
			b.hooks["find-mount"] = func() {
				if top := (fakeFilesystems{b.machine}).topMount(b.target); top >= 0 && !covered {
					covered = true
					b.addMount(b.target, mountOf(other))
				}
			}
			volumetest.WantKind(t, b.publish(t.Context(), false), volume.KindInternal, b.target, other.path)
			if last := b.mounts[len(b.mounts)-1]; last.Device != diskNumberOf(other) {
				t.Errorf("another's mount was taken away: %+v", b.mounts)
			}
			b.mounts = b.mounts[:len(b.mounts)-1]
			if err := errors.Join(b.publish(t.Context(), false), b.unpublish(t.Context()), b.unstage(t.Context())); err != nil {
				t.Error(err)
			}
		})
	}
}

// The path of the disk passes to another disk before the bind.
func TestRawPublishReadsBackWhatTheTargetShows(t *testing.T) {
	requireDeviceNodes(t)
	b := newTestNode(t, blockCapability())
	d := b.add(b.id, volume.GiB)
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	other := b.add("vol-2", volume.GiB)
	other.connected = true
	b.hooks["bind"] = func() { d.path, other.path = other.path, d.path }
	volumetest.WantKind(t, b.publish(t.Context(), false), volume.KindInternal, b.target, "it was unmounted")
	if len(b.mounts) != 0 {
		t.Errorf("left: %+v", b.mounts)
	}
}

// unreliableBind is a kernel that ignores the flags of a bind mount, or makes none.
type unreliableBind struct {
	fakeFilesystems

	nothing bool
}

func (c unreliableBind) Bind(ctx context.Context, req filesystem.BindRequest) error {
	if c.nothing {
		return nil
	}
	req.Options = nil
	return c.fakeFilesystems.Bind(ctx, req)
}

func TestPublishReadsBackTheReadOnlyFlag(t *testing.T) {
	for name, capability := range map[string]*csi.VolumeCapability{
		"mount": mountCapability("ext4"), "block": blockCapability(),
	} {
		t.Run(name, func(t *testing.T) {
			requireDeviceNodes(t)
			b := newTestNode(t, capability)
			b.add(b.id, volume.GiB)
			if err := b.stage(t.Context()); err != nil {
				t.Fatal(err)
			}
			staged := len(b.mounts)
			b.opts.Filesystems = unreliableBind{fakeFilesystems: fakeFilesystems{b.machine}}
			volumetest.WantKind(t, b.publish(t.Context(), true), volume.KindPrecondition, b.target, "read-only=false",
				"it was unmounted")
			b.opts.Filesystems = unreliableBind{fakeFilesystems{b.machine}, true}
			volumetest.WantKind(t, b.publish(t.Context(), true), volume.KindInternal, "nothing is mounted at the target path")
			if len(b.mounts) != staged {
				t.Errorf("mounts %+v", b.mounts)
			}
		})
	}
}
