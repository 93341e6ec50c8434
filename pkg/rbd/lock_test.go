package rbd

import (
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/internal/fakeceph"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// The kernel of a node that has lost the lock of an image with an object map while it was cut off
// stops when it is back. Nothing takes the lock from it, unless it is fenced.
func TestLockOfANodeThatIsCutOffIsNotBroken(t *testing.T) {
	for name, cutOff := range map[string]func(*rig, *fakeceph.Mapping){
		"watches":            func(_ *rig, m *fakeceph.Mapping) { m.CutOff() },
		"has lost its watch": func(_ *rig, m *fakeceph.Mapping) { m.Lose() },
		"loses its watch while the clients are asked": func(r *rig, m *fakeceph.Mapping) {
			r.server.Inject(fakeceph.Fault{Call: "Image.SilentClients", Do: m.Lose})
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.withNodes(t)
			v := r.create(t, request("pvc-1", "imageFeatures", "layering,exclusive-lock,object-map"))
			taken := r.snapshot(t, "s", v.ID)
			_, err := r.Attach(t.Context(), attachRequest(v.ID, "n1"))
			check(t, err)
			m := r.server.Map("volumes", "", "csi-vol-pvc-1", fakeceph.MapOptions{})
			cutOff(r, m)
			_, err = r.Expand(t.Context(), v.ID, 2*volume.GiB)
			volumetest.WantKind(t, err, volume.KindUnavailable, m.Address, "does not answer")
			err = r.DeleteSnapshot(t.Context(), taken.ID)
			volumetest.WantKind(t, err, volume.KindUnavailable, m.Address, "does not answer")
			r.wantSize(t, v.ID, volume.GiB)
			_, err = r.GetSnapshot(t.Context(), taken.ID)
			check(t, err)
			calls := r.server.Calls()
			if calls["Image.Grow"]+calls["Image.RemoveSnapshot"] != 0 {
				t.Errorf("got the calls %v, want none that takes the lock", calls)
			}
			cluster, err := fakeceph.Dialer{"a": r.server}.Connect(r.config["a"])
			check(t, err)
			t.Cleanup(cluster.Close)
			check(t, cluster.Fence(m.Address, time.Hour))
			_, err = r.Expand(t.Context(), v.ID, 2*volume.GiB)
			check(t, err)
			check(t, r.DeleteSnapshot(t.Context(), taken.ID))
			if contents := r.server.Contents(); !slices.Equal(contents, []string{"volumes//csi-vol-pvc-1"}) {
				t.Errorf("the cluster has %v, want the image only", contents)
			}
		})
	}
}

// Without an object map the size needs no lock.
func TestExpandWithoutObjectMapIgnoresTheLock(t *testing.T) {
	r := newRig(t)
	r.withNodes(t)
	v := r.create(t, request("pvc-1"))
	_, err := r.Attach(t.Context(), attachRequest(v.ID, "n1"))
	check(t, err)
	r.server.Map("volumes", "", "csi-vol-pvc-1", fakeceph.MapOptions{}).CutOff()
	_, err = r.Expand(t.Context(), v.ID, 2*volume.GiB)
	check(t, err)
}

// A node that is cut off may have writes on their way, which would change the snapshot and what was
// cloned from it: no snapshot is taken until the node answers, is fenced, or has lost the volume.
func TestSnapshotIsRefusedWhileTheNodeIsCutOff(t *testing.T) {
	r := newRig(t)
	r.withNodes(t)
	v := r.create(t, request("pvc-1"))
	_, err := r.Attach(t.Context(), attachRequest(v.ID, "n1"))
	check(t, err)
	r.server.Map("volumes", "", "csi-vol-pvc-1", fakeceph.MapOptions{})
	r.snapshot(t, "while-mapped", v.ID)
	m := r.server.Map("volumes", "", "csi-vol-pvc-1", fakeceph.MapOptions{})
	m.Lose()
	before := r.server.Contents()
	_, err = r.CreateSnapshot(t.Context(), volume.SnapshotRequest{Name: "s", VolumeID: v.ID})
	volumetest.WantKind(t, err, volume.KindUnavailable, m.Address)
	_, err = r.createCopy(t, copyRequest("pvc-2", volume.Source{VolumeID: v.ID}))
	volumetest.WantKind(t, err, volume.KindUnavailable, m.Address)
	if got := slices.DeleteFunc(r.server.Contents(), isClaim); !slices.Equal(got, slices.DeleteFunc(before, isClaim)) {
		t.Errorf("a refused snapshot has changed %v to %v", before, got)
	}
	cluster, err := fakeceph.Dialer{"a": r.server}.Connect(r.config["a"])
	check(t, err)
	t.Cleanup(cluster.Close)
	r.server.DelayMaps()
	check(t, cluster.Fence(m.Address, time.Hour))
	r.server.Inject(fakeceph.Fault{Call: "Pool.AwaitMap", Errno: unix.ETIMEDOUT, IsLast: true})
	_, err = r.CreateSnapshot(t.Context(), volume.SnapshotRequest{Name: "s", VolumeID: v.ID})
	volumetest.WantKind(t, err, volume.KindUnavailable, m.Address, "storage daemons")
	r.snapshot(t, "s", v.ID)
	if !m.IsFenced() {
		t.Error("the snapshot was taken while the client was served")
	}
}

// The node can be cut off while librbd waits for its lock: what librbd took then is no snapshot.
func TestSnapshotIsRefusedWhenTheNodeIsCutOffDuringTheWaitForItsLock(t *testing.T) {
	r := newRig(t)
	r.withNodes(t)
	v := r.create(t, request("pvc-1"))
	_, err := r.Attach(t.Context(), attachRequest(v.ID, "n1"))
	check(t, err)
	m := r.server.Map("volumes", "", "csi-vol-pvc-1", fakeceph.MapOptions{})
	before := slices.DeleteFunc(r.server.Contents(), isClaim)
	r.server.Inject(fakeceph.Fault{Call: "Image.CreateQuiescedSnapshot", Do: m.Lose})
	_, err = r.CreateSnapshot(t.Context(), volume.SnapshotRequest{Name: "s", VolumeID: v.ID})
	volumetest.WantKind(t, err, volume.KindUnavailable, m.Address, "does not answer")
	if got := slices.DeleteFunc(r.server.Contents(), isClaim); !slices.Equal(got, before) {
		t.Errorf("a refused snapshot has changed %v to %v", before, got)
	}
}

// isClaim reports whether an entry of the fake is the object of a snapshot name.
func isClaim(entry string) bool {
	return strings.Contains(entry, "growvol.snapshot.s") && !strings.Contains(entry, "@")
}

// The lock of a node that has died stays after the volume was detached.
func TestSnapshotOfADetachedVolumeIgnoresTheLock(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	v := r.create(t, request("pvc-1"))
	r.server.Map("volumes", "", "csi-vol-pvc-1", fakeceph.MapOptions{}).Lose()
	r.snapshot(t, "s", v.ID)
}
