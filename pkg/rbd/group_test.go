package rbd

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/internal/fakeceph"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// groupRequest is for a group snapshot of the volumes csi-vol-one and csi-vol-two, which
// prepareGroup creates in two pools.
func groupRequest() volume.GroupSnapshotRequest {
	return volume.GroupSnapshotRequest{Name: "g", VolumeIDs: []string{"a/other/csi-vol-two", "a/volumes/csi-vol-one"}}
}

func prepareGroup(t *testing.T, r *rig) {
	t.Helper()
	r.create(t, request("one"))
	r.create(t, request("two", "pool", "other"))
}

func (r *rig) group(t *testing.T) volume.GroupSnapshot {
	t.Helper()
	g, err := r.CreateGroupSnapshot(t.Context(), groupRequest())
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// wantNoGroup fails the test if a failed creation has left a snapshot or an object.
func (r *rig) wantNoGroup(t *testing.T, when string) {
	t.Helper()
	want := []string{"other//csi-vol-two", "volumes//csi-vol-one"}
	if got := r.server.Contents(); !slices.Equal(got, want) {
		t.Errorf("%s the cluster has %q, want %q", when, got, want)
	}
}

func TestGroupSnapshotHasRestorableMembers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	prepareGroup(t, r)
	r.server.Write("volumes", "", "csi-vol-one", 0, 4, 7)
	g := r.group(t)
	if len(g.Snapshots) != 2 || g.Created.IsZero() {
		t.Fatalf("got %+v, want two snapshots and a time", g)
	}
	for i, s := range g.Snapshots {
		if s.VolumeID != groupRequest().VolumeIDs[i] || s.GroupID != g.ID || !s.Ready {
			t.Errorf("got the snapshot %+v, want it ready, of volume %s and group %s", s, groupRequest().VolumeIDs[i], g.ID)
		}
	}
	r.server.Write("volumes", "", "csi-vol-one", 0, 4, 8)
	v := r.mustCopy(t, copyRequest("restored", volume.Source{SnapshotID: g.Snapshots[1].ID}))
	if got := r.server.Content("volumes", "", strings.TrimPrefix(v.ID, "a/volumes/")); got[0] != 7 {
		t.Errorf("got the block %d, want that of the time of the group snapshot, 7", got[0])
	}
	if again := r.group(t); again.ID != g.ID || !slices.Equal(again.Snapshots, g.Snapshots) {
		t.Errorf("repeated call: got %+v, want %+v", again, g)
	}
	other := groupRequest()
	other.VolumeIDs = other.VolumeIDs[:1]
	_, err := r.CreateGroupSnapshot(t.Context(), other)
	volumetest.WantKind(t, err, volume.KindAlreadyExists, "g")
}

func TestDeletedGroupSnapshotLeavesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	prepareGroup(t, r)
	g := r.group(t)
	volumetest.WantKind(t, r.DeleteGroupSnapshot(t.Context(), g.ID, []string{g.Snapshots[0].ID}), volume.KindInvalid)
	check(t, r.DeleteSnapshot(t.Context(), g.Snapshots[0].ID))
	_, err := r.GetGroupSnapshot(t.Context(), g.ID)
	volumetest.WantKind(t, err, volume.KindNotFound)
	for range 2 {
		check(t, r.DeleteGroupSnapshot(t.Context(), g.ID, []string{g.Snapshots[0].ID, g.Snapshots[1].ID}))
	}
	r.wantNoGroup(t, "after the deletion")
	_, err = r.GetGroupSnapshot(t.Context(), g.ID)
	volumetest.WantKind(t, err, volume.KindNotFound)
	for _, id := range []string{"x", "a/volumes/csi-vol-one", "a/volumes/group:1@2"} {
		check(t, r.DeleteGroupSnapshot(t.Context(), id, nil))
		_, err = r.GetGroupSnapshot(t.Context(), id)
		volumetest.WantKind(t, err, volume.KindNotFound)
	}
}

func TestGroupSnapshotConvergesAfterInterruption(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	prepareGroup(t, r)
	r.group(t)
	scenario{
		prepare: prepareGroup,
		run: func(t *testing.T, r *rig) error {
			t.Helper()
			g, err := r.CreateGroupSnapshot(t.Context(), groupRequest())
			if err == nil && len(g.Snapshots) != 2 {
				err = fmt.Errorf("got %d snapshots, want 2", len(g.Snapshots))
			}
			return err
		},
		want: r.server.Contents(),
	}.checkConverges(t)
}

func TestDeletionOfGroupSnapshotConvergesAfterInterruption(t *testing.T) {
	t.Parallel()
	var id string
	scenario{
		prepare: func(t *testing.T, r *rig) {
			t.Helper()
			prepareGroup(t, r)
			id = r.group(t).ID
		},
		run: func(t *testing.T, r *rig) error {
			t.Helper()
			return r.DeleteGroupSnapshot(t.Context(), id, nil)
		},
		want: []string{"other//csi-vol-two", "volumes//csi-vol-one"},
	}.checkConverges(t)
}

// A snapshot of an interrupted creation is older than the others: it must not become a member.
func TestLeftoverSnapshotDoesNotBecomeMember(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	prepareGroup(t, r)
	r.server.Write("volumes", "", "csi-vol-one", 0, 1, 7)
	r.server.Inject(fakeceph.Fault{Call: "Pool.CreateObject", Nth: 3, Errno: unix.ETIMEDOUT, IsLast: true})
	r.server.Inject(fakeceph.Fault{Call: "Image.RemoveSnapshot", Errno: unix.ETIMEDOUT})
	_, err := r.CreateGroupSnapshot(t.Context(), groupRequest())
	volumetest.WantKind(t, err, volume.KindUnavailable)
	r.server.ClearFaults()
	r.server.Write("volumes", "", "csi-vol-one", 0, 1, 8)
	g := r.group(t)
	v := r.mustCopy(t, copyRequest("restored", volume.Source{SnapshotID: g.Snapshots[1].ID}))
	if got := r.server.Content("volumes", "", strings.TrimPrefix(v.ID, "a/volumes/")); got[0] != 8 {
		t.Errorf("got the block %d of the first attempt, want 8", got[0])
	}
}

func TestFailedMemberLeavesNoGroupSnapshot(t *testing.T) {
	t.Parallel()
	for _, call := range []string{"Image.CreateQuiescedSnapshot", "Image.TakeQuiescedSnapshot", "Image.LockHolder"} {
		r := newRig(t)
		prepareGroup(t, r)
		r.server.Inject(fakeceph.Fault{Call: call, Nth: 2, Errno: unix.ETIMEDOUT, IsLast: true})
		_, err := r.CreateGroupSnapshot(t.Context(), groupRequest())
		volumetest.WantKind(t, err, volume.KindUnavailable)
		r.wantNoGroup(t, "after "+call+" failed")
	}
}

// A volume may be deleted between two calls for a group snapshot, the first of which was
// interrupted.
func TestGroupSnapshotOfADeletedVolumeLeavesNothing(t *testing.T) {
	t.Parallel()
	for _, call := range []string{"", "Image.TakeQuiescedSnapshot", "Pool.CreateObject"} {
		for _, deleted := range groupRequest().VolumeIDs {
			r := newRig(t)
			prepareGroup(t, r)
			if call != "" {
				nth := map[string]int{"Pool.CreateObject": 3}[call] // after those of the snapshot names
				r.server.Inject(fakeceph.Fault{Call: call, Nth: nth, Errno: unix.ETIMEDOUT, IsLate: true, IsLast: true})
				r.server.Inject(fakeceph.Fault{Call: "Image.RemoveSnapshot", Errno: unix.ETIMEDOUT})
				_, err := r.CreateGroupSnapshot(t.Context(), groupRequest())
				volumetest.WantKind(t, err, volume.KindUnavailable)
				r.server.ClearFaults()
			}
			check(t, r.Delete(t.Context(), deleted))
			_, err := r.CreateGroupSnapshot(t.Context(), groupRequest())
			if call == "Pool.CreateObject" { // the group snapshot was made
				check(t, err)
				continue
			}
			volumetest.WantKind(t, err, volume.KindNotFound, deleted)
			want := []string{"volumes//csi-vol-one"}
			if deleted == "a/volumes/csi-vol-one" {
				want = []string{"other//csi-vol-two"}
			}
			if got := r.server.Contents(); !slices.Equal(got, want) {
				t.Errorf("%s: the cluster has %q, want %q", call, got, want)
			}
		}
	}
}

func TestGroupSnapshotIsRefusedWithoutExclusiveLock(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.create(t, request("one"))
	r.create(t, request("two", "pool", "other", "imageFeatures", "layering"))
	_, err := r.CreateGroupSnapshot(t.Context(), groupRequest())
	volumetest.WantKind(t, err, volume.KindPrecondition, "exclusive-lock", "other/csi-vol-two")
	r.wantNoGroup(t, "after the refusal")
}

// A node that no longer watches its image may have writes on their way: its lock is not broken.
func TestGroupSnapshotIsRefusedWhileLockHolderIsLost(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	prepareGroup(t, r)
	node := r.server.Map("volumes", "", "csi-vol-one", fakeceph.MapOptions{})
	r.group(t)
	other := groupRequest()
	other.Name = "later"
	check(t, r.DeleteGroupSnapshot(t.Context(), r.group(t).ID, nil))
	node.Lose()
	_, err := r.CreateGroupSnapshot(t.Context(), other)
	volumetest.WantKind(t, err, volume.KindUnavailable, node.Address, "volumes/csi-vol-one")
	r.wantNoGroup(t, "after the refusal")
	if node.IsFenced() {
		t.Error("the node was fenced")
	}
}

func TestGroupSnapshotIsRefusedWhileNodeIsCutOff(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	prepareGroup(t, r)
	node := r.server.Map("volumes", "", "csi-vol-one", fakeceph.MapOptions{})
	node.CutOff()
	_, err := r.CreateGroupSnapshot(t.Context(), groupRequest())
	volumetest.WantKind(t, err, volume.KindUnavailable, node.Address, "volumes/csi-vol-one")
	r.wantNoGroup(t, "after the refusal")
}

func TestGroupSnapshotIsRefusedOnExclusiveMapping(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	prepareGroup(t, r)
	r.server.Map("volumes", "", "csi-vol-one", fakeceph.MapOptions{Exclusive: true})
	_, err := r.CreateGroupSnapshot(t.Context(), groupRequest())
	volumetest.WantKind(t, err, volume.KindPrecondition, "exclusive")
	r.wantNoGroup(t, "after the refusal")
}

func TestGroupSnapshotNeedsOneCluster(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	req := groupRequest()
	req.VolumeIDs = []string{"a/volumes/csi-vol-one", "b/volumes/csi-vol-one"}
	_, err := r.CreateGroupSnapshot(t.Context(), req)
	volumetest.WantKind(t, err, volume.KindPrecondition, "a and b")
	req.VolumeIDs = []string{"a/volumes/csi-vol-one"}
	_, err = r.CreateGroupSnapshot(t.Context(), req)
	volumetest.WantKind(t, err, volume.KindNotFound)
}

// All images are quiet at the same time: no member passes the gate before the last has arrived.
func TestGateOpensForTheLastArrival(t *testing.T) {
	t.Parallel()
	g := &gate{missing: 2, all: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := g.arrive(ctx); err == nil {
		t.Error("the first arrival passed, want an error: its context has ended")
	}
	if err := g.arrive(t.Context()); err != nil {
		t.Errorf("the last arrival got %v", err)
	}
}
