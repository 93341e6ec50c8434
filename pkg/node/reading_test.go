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
	b := newBench(t, mountCap("ext4"))
	b.add(b.id, volume.GiB)
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	other := b.add("vol-2", volume.GiB)
	other.connected = true
	b.meanwhile["bind"] = func() { b.put(b.staging, on(other)) }
	wantKind(t, b.publish(t.Context(), false), volume.KindInternal, b.target, other.path, "taken away")
	if len(b.mounts) != 2 || b.mounts[1].MountPoint != b.staging {
		t.Errorf("the other's mount must stay, and only the bind go: %+v", b.mounts)
	}
	b.drop(b.staging)
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.fail["unmount"] = volume.Errorf(volume.KindPrecondition, "busy")
	wantKind(t, b.publish(t.Context(), false), volume.KindInternal, other.path, "could not be taken away: busy")
	delete(b.fail, "unmount")
	delete(b.meanwhile, "bind")
	b.drop(b.target)
	b.drop(b.staging)
	if err := errors.Join(b.stage(t.Context()), b.publish(t.Context(), false)); err != nil {
		t.Error(err)
	}
}

// What cannot be read is not shown to a pod.
func TestPublishThatCannotBeReadBack(t *testing.T) {
	b := newBench(t, mountCap("ext4"))
	b.add(b.id, volume.GiB)
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.meanwhile["bind"] = func() { b.fail["by-number"] = volume.Errorf(volume.KindInternal, "sysfs is unreadable") }
	for range 2 {
		wantKind(t, b.publish(t.Context(), false), volume.KindInternal, "sysfs is unreadable")
		if len(b.mounts) != 2 || b.called("unmount") != 0 {
			t.Errorf("mounts %+v", b.mounts)
		}
	}
	clear(b.meanwhile)
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
	b := newBench(t, mountCap("ext4"))
	b.add(b.id, volume.GiB)
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	other := b.add("vol-2", volume.GiB)
	other.connected = true
	b.meanwhile["bind"] = func() {
		b.put(b.staging, on(other))
		b.fail["mounts-of"] = volume.Errorf(volume.KindInternal, "mountinfo is unreadable")
	}
	wantKind(t, b.publish(t.Context(), false), volume.KindInternal, "mountinfo is unreadable")
	if b.called("unmount") != 0 {
		t.Errorf("mounts %+v", b.mounts)
	}
}

// Right after the bind somebody mounts over it. That is not the bind, and stays.
func TestPublishTakesAwayNothingButItsBind(t *testing.T) {
	for name, capability := range map[string]*csi.VolumeCapability{"mount": mountCap("ext4"), "block": blockCap()} {
		t.Run(name, func(t *testing.T) {
			needNodes(t)
			b := newBench(t, capability)
			b.add(b.id, volume.GiB)
			if err := b.stage(t.Context()); err != nil {
				t.Fatal(err)
			}
			other := b.add("vol-2", volume.GiB)
			other.connected = true
			covered := false
			b.meanwhile["find-mount"] = func() {
				if top := (fakeFilesystems{b.machine}).top(b.target); top >= 0 && !covered {
					covered = true
					b.put(b.target, on(other))
				}
			}
			wantKind(t, b.publish(t.Context(), false), volume.KindInternal, b.target, other.path)
			if last := b.mounts[len(b.mounts)-1]; last.Device != numberOf(other) {
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
	needNodes(t)
	b := newBench(t, blockCap())
	d := b.add(b.id, volume.GiB)
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	other := b.add("vol-2", volume.GiB)
	other.connected = true
	b.meanwhile["bind"] = func() { d.path, other.path = other.path, d.path }
	wantKind(t, b.publish(t.Context(), false), volume.KindInternal, b.target, "taken away")
	if len(b.mounts) != 0 {
		t.Errorf("left: %+v", b.mounts)
	}
}

// carelessBind is a kernel that does not do what Bind asks for.
type carelessBind struct {
	fakeFilesystems

	nothing bool
}

func (c carelessBind) Bind(ctx context.Context, req filesystem.BindRequest) error {
	if c.nothing {
		return nil
	}
	req.Options = nil
	return c.fakeFilesystems.Bind(ctx, req)
}

func TestPublishReadsBackTheReadOnlyFlag(t *testing.T) {
	for name, capability := range map[string]*csi.VolumeCapability{"mount": mountCap("ext4"), "block": blockCap()} {
		t.Run(name, func(t *testing.T) {
			needNodes(t)
			b := newBench(t, capability)
			b.add(b.id, volume.GiB)
			if err := b.stage(t.Context()); err != nil {
				t.Fatal(err)
			}
			staged := len(b.mounts)
			b.opts.Filesystems = carelessBind{fakeFilesystems: fakeFilesystems{b.machine}}
			wantKind(t, b.publish(t.Context(), true), volume.KindPrecondition, b.target, "read-only=false", "taken away")
			b.opts.Filesystems = carelessBind{fakeFilesystems{b.machine}, true}
			wantKind(t, b.publish(t.Context(), true), volume.KindInternal, "nothing is mounted at the target path")
			if len(b.mounts) != staged {
				t.Errorf("mounts %+v", b.mounts)
			}
		})
	}
}

// A staging mount that is read-only gives no writable publication.
func TestPublishOfAReadOnlyStagingMount(t *testing.T) {
	b := newBench(t, mountCap("ext4"))
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
	needNodes(t)
	for name, mapped := range map[string]bool{"on the disk": false, "on a mapping": true} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, mountCap("ext4"))
			d := b.add(b.id, volume.GiB)
			if err := b.stage(t.Context()); err != nil {
				t.Fatal(err)
			}
			if mapped {
				d.crypt = volume.GiB - header
				b.mounts[0].Device.Major = cryptMajor
			} else {
				raw := *b
				raw.capability = blockCap()
				wantKind(t, raw.publish(t.Context(), false), volume.KindPrecondition, "mounted", b.staging)
			}
			b.put("/raw", nodeOf(d))
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
	b := newBench(t, blockCap())
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
	needNodes(t)
	b := newBench(t, blockCap())
	b.use(t, volume.GiB)
	b.mounts[0].Root += "//deleted"
	wantKind(t, b.publish(t.Context(), false), volume.KindAlreadyExists, b.target)
}

func (b *bench) stats(path string) (*csi.NodeGetVolumeStatsResponse, error) {
	return b.NodeGetVolumeStats(context.Background(), &csi.NodeGetVolumeStatsRequest{VolumeId: b.id, VolumePath: path})
}

// Figures are those of this volume, or there are none.
func TestStatsOfNothingElse(t *testing.T) {
	b := newBench(t, mountCap("ext4"))
	b.use(t, volume.GiB)
	other := b.add("vol-2", volume.GiB)
	other.connected = true
	gone := b.add("vol-3", volume.GiB)
	dir := filepath.Join(t.TempDir(), "plain")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	b.put("/other", on(other))
	b.put("/other-node", nodeOf(other))
	b.put("/proc", filesystem.Mount{FSType: "proc", Root: "/", Source: "proc", Device: blockdev.DeviceNumber{Minor: 20}})
	b.put("/tmpfs", tmpfs("/"))
	b.put("/tmpfs-dir", tmpfs("/dir"))
	b.put("/stale", deleted(nodeOf(b.disks[b.id])))
	b.put("/gone", on(gone))
	b.put("/foreign", filesystem.Mount{FSType: "ext4", Root: "/", Source: "/dev/loop7", Device: blockdev.DeviceNumber{Major: 7, Minor: 7}})
	for _, path := range []string{"/other", "/other-node", "/proc", "/tmpfs", "/tmpfs-dir", "/stale", "/gone", "/foreign", dir, dir + "-missing"} {
		resp, err := b.stats(path)
		if !volume.IsKind(err, volume.KindNotFound) {
			t.Errorf("%s: %v, %v, want NotFound", path, resp, err)
		}
	}
	if n := b.called("stats"); n != 0 {
		t.Errorf("%d filesystems of others were counted", n)
	}
	b.put("/covered", on(b.disks[b.id]))
	b.put("/covered", on(other))
	if _, err := b.stats("/covered"); !volume.IsKind(err, volume.KindNotFound) {
		t.Errorf("a mount that another covers: %v", err)
	}
	b.disks[b.id].crypt = volume.GiB - header
	b.put("/mapping", onMapping(b.disks[b.id]))
	for _, path := range []string{b.staging, b.target, "/mapping"} {
		if resp, err := b.stats(path); err != nil || len(resp.GetUsage()) != 2 {
			t.Errorf("%s: %v, %v", path, resp, err)
		}
	}
}
