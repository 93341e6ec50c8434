package node

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

func TestStatsOfAMountedVolume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTestNode(t, mountCapability("ext4"))
		b.stageAndPublish(t, volume.GiB)
		stats := func(ctx context.Context, id, path string) (*csi.NodeGetVolumeStatsResponse, error) {
			return b.NodeGetVolumeStats(ctx, &csi.NodeGetVolumeStatsRequest{VolumeId: id, VolumePath: path})
		}
		resp, err := stats(t.Context(), b.id, b.target)
		if err != nil || len(resp.GetUsage()) != 2 || resp.GetUsage()[0].GetTotal() != 90 ||
			resp.GetUsage()[1].GetUsed() != 3 {
			t.Errorf("usage %v, error %v; want 90 bytes in total and 3 inodes used", resp, err)
		}
		for _, c := range []struct{ id, path string }{
			{"nobody", b.target}, {b.id, "some/path"}, {b.id, filepath.Dir(b.target)},
		} {
			_, err := stats(t.Context(), c.id, c.path)
			volumetest.WantKind(t, err, volume.KindNotFound)
		}
		b.holdGrow = make(chan struct{}) // a frozen filesystem answers nothing
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
		defer cancel()
		_, err = stats(ctx, b.id, b.target)
		volumetest.WantKind(t, err, volume.KindDeadline, "does not answer")
		close(b.holdGrow)
	})
}

func TestStatsOfARawVolume(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("making a device node needs root")
	}
	b := newTestNode(t, blockCapability())
	b.stageAndPublish(t, volume.GiB)
	resp, err := b.NodeGetVolumeStats(t.Context(), &csi.NodeGetVolumeStatsRequest{VolumeId: b.id, VolumePath: b.target})
	if err != nil || resp.GetUsage()[0].GetTotal() != volume.GiB.Bytes() {
		t.Errorf("usage %v, error %v; want 1 GiB in total", resp, err)
	}
	b.add("vol-2", volume.GiB).connected = true
	_, err = b.NodeGetVolumeStats(t.Context(), &csi.NodeGetVolumeStatsRequest{VolumeId: "vol-2", VolumePath: b.target})
	volumetest.WantKind(t, err, volume.KindNotFound, b.target)
}

func (b *testNode) stats(path string) (*csi.NodeGetVolumeStatsResponse, error) {
	return b.NodeGetVolumeStats(context.Background(), &csi.NodeGetVolumeStatsRequest{VolumeId: b.id, VolumePath: path})
}

// The statistics are those of this volume; for any other path the error has kind NotFound.
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
	b.addMount(
		"/proc", filesystem.Mount{FSType: "proc", Root: "/", Source: "proc", Device: blockdev.DeviceNumber{Minor: 20}},
	)
	b.addMount("/tmpfs", tmpfs("/"))
	b.addMount("/tmpfs-dir", tmpfs("/dir"))
	b.addMount("/stale", deletedMount(nodeMountOf(b.disks[b.id])))
	b.addMount("/gone", mountOf(gone))
	b.addMount(
		"/foreign",
		filesystem.Mount{FSType: "ext4", Root: "/", Source: "/dev/loop7", Device: blockdev.DeviceNumber{Major: 7, Minor: 7}},
	)
	for _, path := range []string{
		"/other", "/other-node", "/proc", "/tmpfs", "/tmpfs-dir", "/stale", "/gone", "/foreign", dir, dir + "-missing",
	} {
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
			t.Errorf("%s: usage %v, error %v; want bytes and inodes", path, resp, err)
		}
	}
}
