package node

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/volume"
)

// Between the look at the staging path and the bind something else is mounted
// there. The pod does not get it.
func TestPublishReadsBackWhatTheTargetShows(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	b.add(b.id, volume.GiB)
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	other := b.add("vol-2", volume.GiB)
	other.connected = true
	b.hooks["bind"] = func() { b.addMount(b.staging, mountOf(other)) }
	wantKind(t, b.publish(t.Context(), false), volume.KindInternal, b.target, other.path, "it was unmounted")
	if len(b.mounts) != 2 || b.mounts[1].MountPoint != b.staging {
		t.Errorf("the other's mount must stay, and only the bind go: %+v", b.mounts)
	}
	b.dropMount(b.staging)
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.fail["unmount"] = volume.Errorf(volume.KindPrecondition, "busy")
	wantKind(t, b.publish(t.Context(), false), volume.KindInternal, other.path, "could not be unmounted: busy")
	delete(b.fail, "unmount")
	delete(b.hooks, "bind")
	b.dropMount(b.target)
	b.dropMount(b.staging)
	if err := errors.Join(b.stage(t.Context()), b.publish(t.Context(), false)); err != nil {
		t.Error(err)
	}
}

// What cannot be read is not shown to a pod.
func TestPublishThatCannotBeReadBack(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	b.add(b.id, volume.GiB)
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.hooks["bind"] = func() { b.fail["by-number"] = volume.Errorf(volume.KindInternal, "sysfs is unreadable") }
	for range 2 {
		wantKind(t, b.publish(t.Context(), false), volume.KindInternal, "sysfs is unreadable")
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

// What the bind shows is not the volume for sure, and the mounts that could be
// below it cannot be read.
func TestPublishOfSomethingElseThatCannotBeReadBack(t *testing.T) {
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
	wantKind(t, b.publish(t.Context(), false), volume.KindInternal, "mountinfo is unreadable")
	if b.countCalls("unmount") != 0 {
		t.Errorf("mounts %+v", b.mounts)
	}
}

// Right after the bind somebody mounts over it. That is not the bind, and stays.
func TestPublishTakesAwayNothingButItsBind(t *testing.T) {
	for name, capability := range map[string]*csi.VolumeCapability{"mount": mountCapability("ext4"), "block": blockCapability()} {
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
			wantKind(t, b.publish(t.Context(), false), volume.KindInternal, b.target, other.path)
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

// The node of the volume's disk goes to another disk before the bind.
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
	wantKind(t, b.publish(t.Context(), false), volume.KindInternal, b.target, "it was unmounted")
	if len(b.mounts) != 0 {
		t.Errorf("left: %+v", b.mounts)
	}
}

// unreliableBind is a kernel that does not do what Bind asks for.
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
	for name, capability := range map[string]*csi.VolumeCapability{"mount": mountCapability("ext4"), "block": blockCapability()} {
		t.Run(name, func(t *testing.T) {
			requireDeviceNodes(t)
			b := newTestNode(t, capability)
			b.add(b.id, volume.GiB)
			if err := b.stage(t.Context()); err != nil {
				t.Fatal(err)
			}
			staged := len(b.mounts)
			b.opts.Filesystems = unreliableBind{fakeFilesystems: fakeFilesystems{b.machine}}
			wantKind(t, b.publish(t.Context(), true), volume.KindPrecondition, b.target, "read-only=false", "it was unmounted")
			b.opts.Filesystems = unreliableBind{fakeFilesystems{b.machine}, true}
			wantKind(t, b.publish(t.Context(), true), volume.KindInternal, "nothing is mounted at the target path")
			if len(b.mounts) != staged {
				t.Errorf("mounts %+v", b.mounts)
			}
		})
	}
}

// A staging mount that is read-only gives no writable publication.
func TestPublishOfAReadOnlyStagingMount(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	b.add(b.id, volume.GiB)
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.mounts[0].Options = []string{"ro"}
	wantKind(t, b.publish(t.Context(), false), volume.KindPrecondition, "read-only=true", b.staging)
	if len(b.mounts) != 1 {
		t.Errorf("mounts %+v", b.mounts)
	}
}

// Raw and mounted at once would be two writers who do not know of one another.
func TestPublishRefusesAVolumeThatIsUsedInTheOtherWay(t *testing.T) {
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
				wantKind(t, raw.publish(t.Context(), false), volume.KindPrecondition, "mounted", b.staging)
			}
			b.addMount("/raw", nodeMountOf(d))
			wantKind(t, b.publish(t.Context(), false), volume.KindPrecondition, "raw device", "/raw")
			b.mounts[1].Root += "//deleted" // the node of a disk that had the number before
			if err := b.publish(t.Context(), false); err != nil {
				t.Error(err)
			}
		})
	}
}

// A raw volume has no mount that would pin its disk: what the connector has
// located is verified.
func TestRawPublishVerifiesTheDisk(t *testing.T) {
	b := newTestNode(t, blockCapability())
	d := b.add(b.id, volume.GiB)
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.serial = "vol-2"
	wantKind(t, b.publish(t.Context(), false), volume.KindPrecondition, "another volume")
	if len(b.mounts) != 0 {
		t.Errorf("published: %+v", b.mounts)
	}
}

// The node at the target path leads to the volume's number, but to no disk any
// more: it is not what was asked for.
func TestRawPublishOverAStaleNode(t *testing.T) {
	requireDeviceNodes(t)
	b := newTestNode(t, blockCapability())
	b.stageAndPublish(t, volume.GiB)
	b.mounts[0].Root += "//deleted"
	wantKind(t, b.publish(t.Context(), false), volume.KindAlreadyExists, b.target)
}

func (b *testNode) stats(path string) (*csi.NodeGetVolumeStatsResponse, error) {
	return b.NodeGetVolumeStats(context.Background(), &csi.NodeGetVolumeStatsRequest{VolumeId: b.id, VolumePath: path})
}

// Figures are those of this volume, or there are none.
func TestStatsOfNothingElse(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	b.stageAndPublish(t, volume.GiB)
	other := b.add("vol-2", volume.GiB)
	other.connected = true
	gone := b.add("vol-3", volume.GiB)
	dir := filepath.Join(t.TempDir(), "plain")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	b.addMount("/other", mountOf(other))
	b.addMount("/other-node", nodeMountOf(other))
	b.addMount("/proc", filesystem.Mount{FSType: "proc", Root: "/", Source: "proc", Device: blockdev.DeviceNumber{Minor: 20}})
	b.addMount("/tmpfs", tmpfs("/"))
	b.addMount("/tmpfs-dir", tmpfs("/dir"))
	b.addMount("/stale", deletedMount(nodeMountOf(b.disks[b.id])))
	b.addMount("/gone", mountOf(gone))
	b.addMount("/foreign", filesystem.Mount{FSType: "ext4", Root: "/", Source: "/dev/loop7", Device: blockdev.DeviceNumber{Major: 7, Minor: 7}})
	for _, path := range []string{"/other", "/other-node", "/proc", "/tmpfs", "/tmpfs-dir", "/stale", "/gone", "/foreign", dir, dir + "-missing"} {
		resp, err := b.stats(path)
		if !volume.IsKind(err, volume.KindNotFound) {
			t.Errorf("%s: %v, %v, want NotFound", path, resp, err)
		}
	}
	if n := b.countCalls("stats"); n != 0 {
		t.Errorf("%d filesystems of others were counted", n)
	}
	b.addMount("/covered", mountOf(b.disks[b.id]))
	b.addMount("/covered", mountOf(other))
	if _, err := b.stats("/covered"); !volume.IsKind(err, volume.KindNotFound) {
		t.Errorf("a mount that another covers: %v", err)
	}
	b.disks[b.id].mappingSize = volume.GiB - headerSize
	b.addMount("/mapping", mountOfMapping(b.disks[b.id]))
	for _, path := range []string{b.staging, b.target, "/mapping"} {
		if resp, err := b.stats(path); err != nil || len(resp.GetUsage()) != 2 {
			t.Errorf("%s: %v, %v", path, resp, err)
		}
	}
}
