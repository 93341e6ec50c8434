package rbd

import (
	"slices"
	"testing"

	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// This file tests checks that no operation alone needs: what they prevent has another cause, or
// another call refuses it, too.

func TestTombstoneWithASnapshotIsNotRemoved(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	v := r.create(t, request("pvc-1"))
	first, second := r.snapshot(t, "s", v.ID), r.snapshot(t, "t", v.ID)
	check(t, r.Delete(t.Context(), v.ID))
	check(t, r.DeleteSnapshot(t.Context(), first.ID))
	if calls := r.server.Calls()["Pool.Remove"]; calls != 0 {
		t.Errorf("Ceph was requested %d times to remove the image of the snapshot %s", calls, second.ID)
	}
	if read, err := r.GetSnapshot(t.Context(), second.ID); err != nil || read != second {
		t.Errorf("got %+v, %v, want %+v", read, err, second)
	}
}

// A snapshot has the name of one of another image, which the object belongs to.
func TestNameOfAnotherImageIsNotDropped(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	v := r.create(t, request("pvc-1"))
	r.create(t, request("pvc-2"))
	s := r.snapshot(t, "s", v.ID)
	im, err := r.testPool(t, "volumes", "").Open("csi-vol-pvc-2", false)
	check(t, err)
	check(t, im.CreateSnapshot("growvol.snapshot.s"))
	check(t, im.Close())
	check(t, r.DeleteSnapshot(t.Context(), "a/volumes/csi-vol-pvc-2@growvol.snapshot.s"))
	want := []string{
		"object volumes//growvol.snapshot.s", "volumes//csi-vol-pvc-1", "volumes//csi-vol-pvc-1@growvol.snapshot.s",
		"volumes//csi-vol-pvc-2",
	}
	if got := r.server.Contents(); !slices.Equal(got, want) {
		t.Errorf("the cluster has %q, want %q", got, want)
	}
	if read, err := r.GetSnapshot(t.Context(), s.ID); err != nil || read != s {
		t.Errorf("got %+v, %v, want %+v", read, err, s)
	}
}

func TestCloneOfAnotherVolumeIsNotTaken(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	first, second := r.create(t, request("pvc-1")), r.create(t, request("pvc-2"))
	pool := r.testPool(t, "volumes", "")
	im, err := pool.Open("csi-vol-pvc-2", false)
	check(t, err)
	check(t, im.CreateSnapshot("growvol.clone.csi-vol-pvc-3"))
	check(t, im.Close())
	const temporary = "growvol.clone.csi-vol-pvc-3"
	check(t, pool.Clone(pool, "csi-vol-pvc-2", temporary, "csi-vol-pvc-3", ceph.ImageOptions{}))
	_, err = r.createCopy(t, copyRequest("pvc-3", volume.Source{VolumeID: first.ID}))
	volumetest.WantKind(t, err, volume.KindAlreadyExists, "csi-vol-pvc-2@"+temporary)
	r.mustCopy(t, copyRequest("pvc-3", volume.Source{VolumeID: second.ID}))
}

// A deleted snapshot exists until its last clone is gone, but nothing is restored from it.
func TestDeletedSnapshotIsNotRestored(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	v := r.create(t, request("pvc-1"))
	s := r.snapshot(t, "s", v.ID)
	r.mustCopy(t, copyRequest("pvc-2", volume.Source{SnapshotID: s.ID}))
	check(t, r.DeleteSnapshot(t.Context(), s.ID))
	clones := r.server.Calls()["Pool.Clone"]
	_, err := r.createCopy(t, copyRequest("pvc-3", volume.Source{SnapshotID: s.ID}))
	volumetest.WantKind(t, err, volume.KindNotFound, s.ID)
	if got := r.server.Calls()["Pool.Clone"]; got != clones {
		t.Errorf("Ceph was requested %d times to clone the deleted snapshot", got-clones)
	}
}
