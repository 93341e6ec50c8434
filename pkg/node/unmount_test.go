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

// unmountBothWays calls NodeUnpublishVolume and NodeUnstageVolume for the same path.
func (b *testNode) unmountBothWays(t *testing.T, path string) map[string]error {
	t.Helper()
	u := *b
	u.target, u.staging = path, path
	return map[string]error{"unpublish": u.unpublish(t.Context()), "unstage": u.unstage(t.Context())}
}

// A mount that is not proved to be the volume's is left alone, and the call returns the error of
// the reading.
func TestUnmountLeavesAloneWhatIsNotProvedOurs(t *testing.T) {
	other := func(b *testNode) *fakeDisk { return b.disks["vol-2"] }
	loop := filesystem.Mount{
		FSType: "ext4", Root: "/", Source: "/dev/loop7", Device: blockdev.DeviceNumber{Major: 7, Minor: 7},
	}
	for name, c := range map[string]struct {
		mount   func(b *testNode) filesystem.Mount
		prepare func(b *testNode)
		kind    volume.Kind
	}{
		"another volume": {
			func(b *testNode) filesystem.Mount { return mountOf(other(b)) }, nil, volume.KindPrecondition,
		},
		"another volume's node": {
			func(b *testNode) filesystem.Mount { return nodeMountOf(other(b)) }, nil, volume.KindPrecondition,
		},
		"a foreign loop device":  {func(*testNode) filesystem.Mount { return loop }, nil, volume.KindPrecondition},
		"a directory of a tmpfs": {func(*testNode) filesystem.Mount { return tmpfs("/dir") }, nil, volume.KindPrecondition},
		"a deleted one": {
			func(*testNode) filesystem.Mount { return deletedMount(tmpfs("/dir")) }, nil, volume.KindPrecondition,
		},
		"a file of a devtmpfs": {func(b *testNode) filesystem.Mount {
			m := nodeMountOf(other(b))
			m.DeviceNode.Major, m.DeviceNode.Minor = 0, 0
			return m
		}, nil, volume.KindPrecondition},
		"a tmpfs": {func(*testNode) filesystem.Mount { return tmpfs("/") }, nil, volume.KindPrecondition},
		"an unknown id": {
			func(b *testNode) filesystem.Mount { return mountOf(other(b)) }, func(b *testNode) { delete(b.disks, "vol-1") },
			volume.KindPrecondition,
		},
		"an unknown id, a loop disk": {
			func(*testNode) filesystem.Mount { return loop }, func(b *testNode) { delete(b.disks, "vol-1") },
			volume.KindPrecondition,
		},
		"no answer in time": {
			func(b *testNode) filesystem.Mount { return mountOf(other(b)) },
			func(b *testNode) { b.fail["verify"] = volume.Errorf(volume.KindDeadline, "slow") }, volume.KindDeadline,
		},
		"no answer of a node": {
			func(b *testNode) filesystem.Mount { return nodeMountOf(other(b)) },
			func(b *testNode) { b.fail["verify"] = context.DeadlineExceeded }, volume.KindDeadline,
		},
		"no backend": {
			func(b *testNode) filesystem.Mount { return mountOf(other(b)) },
			func(b *testNode) { b.fail["verify"] = volume.Errorf(volume.KindUnavailable, "down") }, volume.KindUnavailable,
		},
		"an unreadable serial": {
			func(b *testNode) filesystem.Mount { return mountOf(other(b)) },
			func(b *testNode) { b.fail["verify"] = errors.New("EIO") }, volume.KindInternal,
		},
		"an unreadable device": {
			func(b *testNode) filesystem.Mount { return mountOf(other(b)) },
			func(b *testNode) { b.fail["by-number"] = errors.New("EIO") }, volume.KindInternal,
		},
		"an unreadable table": {
			func(b *testNode) filesystem.Mount { return mountOf(other(b)) },
			func(b *testNode) { b.fail["find-mount"] = errors.New("ENOMEM") }, volume.KindInternal,
		},
		"an unreadable btrfs": {func(*testNode) filesystem.Mount {
			return filesystem.Mount{FSType: "btrfs", Root: "/", Source: "/dev/alias", Device: blockdev.DeviceNumber{Minor: 50}}
		}, nil, volume.KindInternal},
	} {
		t.Run(name, func(t *testing.T) {
			b := newTestNode(t, mountCapability("ext4"))
			b.add("vol-1", volume.GiB)
			b.add("vol-2", volume.GiB).connected = true
			if err := os.MkdirAll(b.target, 0o700); err != nil {
				t.Fatal(err)
			}
			b.addMount(b.target, c.mount(b))
			if c.prepare != nil {
				c.prepare(b)
			}
			for call, err := range b.unmountBothWays(t, b.target) {
				if !volume.IsKind(err, c.kind) {
					t.Errorf("%s: %v (kind %s), want %s", call, err, volume.KindOf(err), c.kind)
				}
			}
			if len(b.mounts) != 1 || b.countCalls("unmount") != 0 {
				t.Errorf("unmounted: %+v", b.mounts)
			}
			if _, err := os.Lstat(b.target); err != nil {
				t.Errorf("the path was removed: %v", err)
			}
		})
	}
}

// A mount that is proved to be the volume's is removed, and so is a mount whose device is gone.
func TestUnmountRemovesWhatIsProvedOurs(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(b *testNode, d *fakeDisk)
		mount   func(d *fakeDisk) filesystem.Mount
	}{
		"this volume":             {nil, mountOf},
		"its node":                {nil, nodeMountOf},
		"its mapping":             {func(b *testNode, d *fakeDisk) { b.encrypt(d) }, mountOfMapping},
		"its device is gone":      {func(_ *testNode, d *fakeDisk) { d.connected = false }, mountOf},
		"its node's disk is gone": {func(_ *testNode, d *fakeDisk) { d.connected = false }, nodeMountOf},
		"a removed node": {
			func(_ *testNode, d *fakeDisk) { d.connected = false },
			func(d *fakeDisk) filesystem.Mount { return deletedMount(nodeMountOf(d)) },
		},
		"a btrfs without a disk": {
			func(_ *testNode, d *fakeDisk) { d.connected = false },
			func(d *fakeDisk) filesystem.Mount {
				return filesystem.Mount{FSType: "btrfs", Root: "/", Source: d.path, Device: blockdev.DeviceNumber{Minor: 50}}
			},
		},
		"the volume was deleted": {func(_ *testNode, d *fakeDisk) { d.deleted = true }, mountOf},
	} {
		t.Run(name, func(t *testing.T) {
			b := newTestNode(t, mountCapability("ext4"))
			d := b.add(b.id, volume.GiB)
			d.connected = true
			if c.prepare != nil {
				c.prepare(b, d)
			}
			b.addMount(b.target, c.mount(d))
			for call, err := range b.unmountBothWays(t, b.target) {
				if err != nil {
					t.Errorf("%s: %v", call, err)
				}
			}
			if len(b.mounts) != 0 {
				t.Errorf("left: %+v", b.mounts)
			}
		})
	}
}

// Each mount of a stack is proved before it is unmounted.
func TestUnmountProvesEachMountOfAStack(t *testing.T) {
	for name, c := range map[string]struct {
		stack []string // from below
		kind  volume.Kind
		left  int
	}{
		"both are the volume's":  {[]string{"vol-1", "vol-1"}, 0, 0},
		"the lower is another's": {[]string{"vol-2", "vol-1"}, volume.KindPrecondition, 1},
		"the upper is another's": {[]string{"vol-1", "vol-2"}, volume.KindPrecondition, 2},
		"another's is between":   {[]string{"vol-1", "vol-2", "vol-1", "vol-1"}, volume.KindPrecondition, 2},
	} {
		t.Run(name, func(t *testing.T) {
			for _, call := range []string{"unpublish", "unstage"} {
				b := newTestNode(t, mountCapability("ext4"))
				for _, id := range []string{"vol-1", "vol-2"} {
					b.add(id, volume.GiB).connected = true
				}
				for _, id := range c.stack {
					b.addMount(b.target, mountOf(b.disks[id]))
				}
				u := *b
				u.staging = b.target
				err := map[string]func(context.Context) error{"unpublish": u.unpublish, "unstage": u.unstage}[call](t.Context())
				if c.left == 0 && err != nil {
					t.Errorf("%s: %v", call, err)
				}
				if c.left > 0 {
					volumetest.WantKind(t, err, c.kind, b.target, b.disks["vol-2"].path, "left alone")
				}
				if len(b.mounts) != c.left {
					t.Errorf("%s: left %+v", call, b.mounts)
				}
			}
		})
	}
}

// Unpublish and unstage succeed for an unknown volume of which nothing is mounted.
func TestUnpublishAndUnstageOfAnUnknownVolume(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	b.id = "nobody's"
	if err := errors.Join(b.unpublish(t.Context()), b.unstage(t.Context())); err != nil {
		t.Error(err)
	}
}

// A reading of a mount that hangs ends with the call and keeps the lock: a retry does not repeat
// it.
func TestHungMountIsReadOnceByThreeCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTestNode(t, mountCapability("ext4"))
		b.stageAndPublish(t, volume.GiB)
		b.holdFindMount = make(chan struct{})
		readings := b.countCalls("find-mount")
		for what, call := range map[string]func(context.Context) error{
			"unpublish": b.unpublish, "publish": func(ctx context.Context) error { return b.publish(ctx, false) },
			"unstage": b.unstage,
		} {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			err := call(ctx)
			cancel()
			if !volume.IsKind(err, volume.KindDeadline) {
				t.Errorf("%s: error %v, want kind Deadline", what, err)
			}
		}
		if n := b.countCalls("find-mount") - readings; n != 1 {
			t.Errorf("%d readings hang", n)
		}
		close(b.holdFindMount)
		if err := errors.Join(b.unpublish(t.Context()), b.unstage(t.Context())); err != nil {
			t.Error(err)
		}
	})
}

// A reading of a mount that hangs ends with the call, for every call.
func TestHungMountEndsWithEachCall(t *testing.T) {
	for what, call := range map[string]func(*testNode, context.Context) error{
		"stage":     (*testNode).stage,
		"unstage":   (*testNode).unstage,
		"publish":   func(b *testNode, ctx context.Context) error { return b.publish(ctx, false) },
		"unpublish": (*testNode).unpublish,
		"expand": func(b *testNode, ctx context.Context) error {
			_, err := b.expand(ctx, volume.GiB)
			return err
		},
		"growth on device change": func(b *testNode, ctx context.Context) error {
			_, err := b.growToDevice(ctx, b.id)
			return err
		},
		"health": func(b *testNode, ctx context.Context) error {
			_, err := b.NodeGetVolumeHealth(ctx, &csi.NodeGetVolumeHealthRequest{VolumeId: b.id, StagingTargetPath: b.staging})
			return err
		},
		"stats": func(b *testNode, ctx context.Context) error {
			_, err := b.NodeGetVolumeStats(ctx, &csi.NodeGetVolumeStatsRequest{VolumeId: b.id, VolumePath: b.target})
			return err
		},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newTestNode(t, mountCapability("ext4"))
				d := b.stageAndPublish(t, volume.GiB)
				b.holdFindMount = make(chan struct{})
				start, readings := time.Now(), b.countCalls("find-mount")
				for range 3 {
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					err := call(b, ctx)
					cancel()
					volumetest.WantKind(t, err, volume.KindDeadline)
				}
				if took := time.Since(start); took > 3*time.Second {
					t.Errorf("three calls of a second took %s", took)
				}
				if n := b.countCalls("find-mount") - readings; n != 1 {
					t.Errorf("%d readings hang", n)
				}
				close(b.holdFindMount)
				synctest.Wait()
				if err := call(b, t.Context()); err != nil && what != "unstage" {
					t.Errorf("the retry: %v", err)
				}
				if d.openHandles != 0 {
					t.Errorf("%d descriptors are left open", d.openHandles)
				}
			})
		})
	}
}
