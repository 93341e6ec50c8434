package rbd

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/internal/fakeceph"
	"github.com/growvol/growvol/pkg/volume"
)

// This file holds the crash test of deletions and copies: an operation is interrupted at each of
// its calls, then repeated, and must lead to the same state as without the interruption.

// scenario is an operation on prepared volumes.
type scenario struct {
	prepare func(t *testing.T, r *rig)
	run     func(t *testing.T, r *rig) error // the operation, which is repeated
	want    []string                         // Server.Contents after it
}

// checkConverges runs the scenario without faults, and then once with each interruption.
func (sc scenario) checkConverges(t *testing.T) {
	t.Helper()
	r := newRig(t)
	sc.prepare(t, r)
	r.server.ResetCalls()
	if err := sc.run(t, r); err != nil {
		t.Fatalf("without faults: %v", err)
	}
	steps := r.server.Steps()
	sc.checkContents(t, r, "without faults")
	for i := range steps {
		fault := fakeceph.Fault{Nth: i + 1, Errno: unix.ETIMEDOUT, IsLast: true}
		sc.interrupt(t, fault, false)
		sc.interrupt(t, fault, true)
		// The call stops after each of its steps. After the last one only its answer is lost.
		for fault.Steps = 1; fault.Steps <= steps[i]; fault.Steps++ {
			sc.interrupt(t, fault, false)
			sc.interrupt(t, fault, true)
		}
		sc.interrupt(t, fakeceph.Fault{Nth: i + 1, Errno: unix.ESHUTDOWN, IsLast: true}, false)
		sc.interrupt(t, fakeceph.Fault{Nth: i + 1, Errno: unix.ESHUTDOWN, IsLast: true, IsLate: true}, false)
	}
}

// interrupt runs the operation with the fault, and then without it. In a crash no call after that
// of the fault succeeds, and another backend repeats the operation.
func (sc scenario) interrupt(t *testing.T, fault fakeceph.Fault, isCrash bool) {
	t.Helper()
	r := newRig(t)
	sc.prepare(t, r)
	r.server.Inject(fault)
	if isCrash {
		r.server.Inject(fakeceph.Fault{Nth: fault.Nth + 1, Errno: unix.ETIMEDOUT})
	}
	first := sc.run(t, r)
	r.server.ClearFaults()
	if isCrash {
		r.server.DropConnections()
		r.Backend = r.newBackend(t)
	}
	if err := sc.run(t, r); err != nil {
		t.Errorf("fault %+v, crash %t: the repeated operation failed: %v (first: %v)", fault, isCrash, err, first)
		return
	}
	sc.checkContents(t, r, "after the fault")
	if t.Failed() {
		t.Logf("fault %+v, crash %t, first: %v", fault, isCrash, first)
		t.FailNow()
	}
}

func (sc scenario) checkContents(t *testing.T, r *rig, when string) {
	t.Helper()
	if got := r.server.Contents(); !slices.Equal(got, sc.want) {
		t.Errorf("%s the cluster has %q, want %q", when, got, sc.want)
	}
}

// snapshot takes a snapshot and returns its handle.
func (r *rig) snapshot(t *testing.T, name, volumeID string) volume.Snapshot {
	t.Helper()
	s, err := r.CreateSnapshot(t.Context(), volume.SnapshotRequest{Name: name, VolumeID: volumeID})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// copyRequest returns a request for a volume from a source.
func copyRequest(name string, source volume.Source, changes ...string) volume.CreateRequest {
	req := request(name, changes...)
	req.Source = source
	return req
}

// createCopy runs Find and the call that package controller would choose.
func (r *rig) createCopy(t *testing.T, req volume.CreateRequest) (volume.Volume, error) {
	t.Helper()
	if _, _, err := r.Find(t.Context(), req); err != nil {
		return volume.Volume{}, err
	}
	if req.Source.SnapshotID != "" {
		return r.Restore(t.Context(), req)
	}
	return r.CloneVolume(t.Context(), req)
}

// mustCopy is createCopy for a copy that must succeed.
func (r *rig) mustCopy(t *testing.T, req volume.CreateRequest) volume.Volume {
	t.Helper()
	v, err := r.createCopy(t, req)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// fixtures are the handles that prepare passes to run: they are the same in each rig.
const (
	firstVolume   = "a/volumes/csi-vol-pvc-1"
	firstSnapshot = "a/volumes/id:1051d00001@1"
)

func TestDeletionsConverge(t *testing.T) {
	t.Parallel()
	plain := func(t *testing.T, r *rig) {
		t.Helper()
		r.create(t, request("pvc-1"))
	}
	snapshotted := func(t *testing.T, r *rig) {
		t.Helper()
		plain(t, r)
		r.snapshot(t, "s", firstVolume)
	}
	restored := func(t *testing.T, r *rig) {
		t.Helper()
		snapshotted(t, r)
		r.mustCopy(t, copyRequest("pvc-2", volume.Source{SnapshotID: firstSnapshot}))
	}
	removeAll := func(ids ...string) func(*testing.T, *rig) error {
		return func(t *testing.T, r *rig) error {
			t.Helper()
			for _, id := range ids {
				err := r.Delete(t.Context(), id)
				if id == firstSnapshot {
					err = r.DeleteSnapshot(t.Context(), id)
				}
				if err != nil {
					return err
				}
			}
			return nil
		}
	}
	const (
		second    = "a/volumes/csi-vol-pvc-2"
		tombstone = "volumes//csi-vol-pvc-1.growvol-deleted.1051d00001"
	)
	for name, sc := range map[string]scenario{
		"volume":                    {plain, removeAll(firstVolume), nil},
		"snapshot":                  {snapshotted, removeAll(firstSnapshot), []string{"volumes//csi-vol-pvc-1"}},
		"volume, then its snapshot": {snapshotted, removeAll(firstVolume, firstSnapshot), nil},
		"volume with a snapshot": {snapshotted, removeAll(firstVolume), []string{
			"object volumes//growvol.snapshot.s", tombstone, tombstone + "@growvol.snapshot.s",
		}},
		"snapshot, volume, clone": {restored, removeAll(firstSnapshot, firstVolume, second), nil},
		"volume, snapshot, clone": {restored, removeAll(firstVolume, firstSnapshot, second), nil},
		"volume, clone, snapshot": {restored, removeAll(firstVolume, second, firstSnapshot), nil},
		"clone, volume, snapshot": {restored, removeAll(second, firstVolume, firstSnapshot), nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sc.checkConverges(t)
		})
	}
}

// A chain of clones whose sources were all deleted goes with the last clone.
func TestDeletionOfTheLastCloneRemovesTheChain(t *testing.T) {
	t.Parallel()
	scenario{
		prepare: func(t *testing.T, r *rig) {
			t.Helper()
			r.create(t, request("pvc-1"))
			for _, names := range [][2]string{{"pvc-1", "pvc-2"}, {"pvc-2", "pvc-3"}, {"pvc-3", "pvc-4"}} {
				source := "a/volumes/csi-vol-" + names[0]
				if names[0] == "pvc-3" {
					source = "a/other/csi-vol-pvc-3"
				}
				pool := "volumes"
				if names[1] == "pvc-3" {
					pool = "other"
				}
				r.mustCopy(t, copyRequest(names[1], volume.Source{VolumeID: source}, "pool", pool))
				check(t, r.Delete(t.Context(), source))
			}
		},
		run: func(t *testing.T, r *rig) error {
			t.Helper()
			return r.Delete(t.Context(), "a/volumes/csi-vol-pvc-4")
		},
	}.checkConverges(t)
}

// Ceph may leave a removed snapshot without clones, and does not report it.
func TestDeletionOfTheLastCloneRemovesALeftSnapshot(t *testing.T) {
	t.Parallel()
	scenario{
		prepare: func(t *testing.T, r *rig) {
			t.Helper()
			r.create(t, request("pvc-1"))
			r.mustCopy(t, copyRequest("pvc-2", volume.Source{VolumeID: firstVolume}))
			r.mustCopy(t, copyRequest("pvc-3", volume.Source{VolumeID: firstVolume}))
			check(t, r.Delete(t.Context(), firstVolume))
			r.server.KeepRemovedSnapshots("volumes")
			check(t, r.Delete(t.Context(), "a/volumes/csi-vol-pvc-2"))
			if left := r.server.Contents(); len(left) < 3 {
				t.Errorf("the snapshot of the other clone is gone: %v", left)
			}
		},
		run: func(t *testing.T, r *rig) error {
			t.Helper()
			return r.Delete(t.Context(), "a/volumes/csi-vol-pvc-3")
		},
	}.checkConverges(t)
}

func TestCopiesConverge(t *testing.T) {
	t.Parallel()
	snapshotted := func(t *testing.T, r *rig) {
		t.Helper()
		r.create(t, request("pvc-1"))
		r.snapshot(t, "s", firstVolume)
	}
	larger := func(source volume.Source) func(*testing.T, *rig) error {
		return func(t *testing.T, r *rig) error {
			t.Helper()
			req := copyRequest("pvc-2", source)
			req.Size, req.Range.Required = 2*volume.GiB, 2*volume.GiB
			v, err := r.createCopy(t, req)
			if err == nil && (v.Size != 2*volume.GiB || v.Source != source) {
				t.Errorf("got %+v", v)
			}
			return err
		}
	}
	base := []string{
		"object volumes//growvol.snapshot.s", "volumes//csi-vol-pvc-1", "volumes//csi-vol-pvc-1@growvol.snapshot.s",
	}
	scenario{
		snapshotted, larger(volume.Source{SnapshotID: firstSnapshot}), append(slices.Clone(base), "volumes//csi-vol-pvc-2"),
	}.checkConverges(t)
	// The temporary snapshot waits for its clone.
	want := slices.Insert(slices.Clone(base), 2, "volumes//csi-vol-pvc-1@(removed)")
	scenario{
		snapshotted, larger(volume.Source{VolumeID: firstVolume}), append(want, "volumes//csi-vol-pvc-2"),
	}.checkConverges(t)
	scenario{
		func(t *testing.T, r *rig) {
			t.Helper()
			r.create(t, request("pvc-1"))
		},
		func(t *testing.T, r *rig) error {
			t.Helper()
			_, err := r.CreateSnapshot(t.Context(), volume.SnapshotRequest{Name: "s", VolumeID: firstVolume})
			return err
		}, base,
	}.checkConverges(t)
}

// A volume that an administrator has moved to the trash, and one that never existed, count as
// deleted. What is in the trash stays there, also the rest of another removal.
func TestDeleteLeavesOthersInTheTrash(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	moved, half := r.create(t, request("moved")), r.create(t, request("half"))
	r.server.MoveToTrash("volumes", "", "csi-vol-moved")
	r.server.Inject(fakeceph.Fault{Call: "Pool.Remove", Steps: 3, Errno: unix.ETIMEDOUT, IsLast: true})
	if err := r.Delete(t.Context(), half.ID); err == nil {
		t.Fatal("the removal was not interrupted")
	}
	check(t, r.Delete(t.Context(), moved.ID))
	check(t, r.Delete(t.Context(), "a/volumes/csi-vol-never"))
	want := []string{"volumes//csi-vol-half (trash)", "volumes//csi-vol-moved (trash)"}
	if got := r.server.Contents(); !slices.Equal(got, want) {
		t.Errorf("the cluster has %v, want %v", got, want)
	}
	check(t, r.Delete(t.Context(), half.ID))
	if got := r.server.Contents(); !slices.Equal(got, want[1:]) {
		t.Errorf("the cluster has %v, want %v", got, want[1:])
	}
}

// An interrupted `rbd trash move` leaves an image whose name the directory still has: it is not one
// that is being removed.
func TestDeleteLeavesHalfTrashedImage(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	v := r.create(t, request("moved"))
	r.server.BeginMoveToTrash("volumes", "", "csi-vol-moved")
	check(t, r.Delete(t.Context(), v.ID))
	if n := r.server.Calls()["Pool.Remove"]; n > 0 {
		t.Errorf("%d removals, want none: the image has its data", n)
	}
	if got := r.server.Contents(); !slices.Contains(got, "volumes//csi-vol-moved (trash)") {
		t.Errorf("the cluster has %v, want the image in the trash", got)
	}
}
