package rbd

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/internal/fakeceph"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// This file tests deletions and copies during which something else happens to the same images.

// during runs f directly before the next call of that name.
func (r *rig) during(call string, f func()) {
	r.server.Inject(fakeceph.Fault{Call: call, IsLast: true, Do: f})
}

func (r *rig) wantEmpty(t *testing.T) {
	t.Helper()
	if left := r.server.Contents(); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestLastSnapshotIsDeletedWhileItsVolumeIs(t *testing.T) {
	t.Parallel()
	for _, call := range []string{"Pool.Rename", "Image.Watchers", "Pool.ImageID"} {
		r := newRig(t)
		v := r.create(t, request("pvc-1"))
		s := r.snapshot(t, "s", v.ID)
		r.during(call, func() { check(t, r.DeleteSnapshot(t.Context(), s.ID)) })
		check(t, r.Delete(t.Context(), v.ID))
		r.wantEmpty(t)
	}
}

func TestVolumeIsDeletedWhileItsLastSnapshotIs(t *testing.T) {
	t.Parallel()
	for _, call := range []string{"Pool.OpenID", "Image.RemoveSnapshot", "Pool.RemoveObject"} {
		r := newRig(t)
		v := r.create(t, request("pvc-1"))
		s := r.snapshot(t, "s", v.ID)
		var err error
		r.during(call, func() { err = r.Delete(t.Context(), v.ID) })
		check(t, r.DeleteSnapshot(t.Context(), s.ID))
		check(t, err)
		r.wantEmpty(t)
	}
}

func TestSourceIsDeletedWhileItsCloneIs(t *testing.T) {
	t.Parallel()
	for _, call := range []string{"Pool.Remove", "Pool.ForceObject", "Pool.ReadObject"} {
		r := newRig(t)
		v := r.create(t, request("pvc-1"))
		clone := r.mustCopy(t, copyRequest("pvc-2", volume.Source{VolumeID: v.ID}))
		r.during(call, func() { check(t, r.Delete(t.Context(), v.ID)) })
		check(t, r.Delete(t.Context(), clone.ID))
		r.wantEmpty(t)
	}
}

func TestSourceIsDeletedWhileItIsCopied(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	v := r.create(t, request("pvc-1"))
	s := r.snapshot(t, "s", v.ID)
	// The image is renamed between the reading of its name and the clone.
	r.during("Pool.Clone", func() { check(t, r.Delete(t.Context(), v.ID)) })
	r.mustCopy(t, copyRequest("pvc-2", volume.Source{SnapshotID: s.ID}))
	want := []string{
		"object volumes//growvol.snapshot.s", "volumes//csi-vol-pvc-1.growvol-deleted.1051d00001",
		"volumes//csi-vol-pvc-1.growvol-deleted.1051d00001@growvol.snapshot.s", "volumes//csi-vol-pvc-2",
	}
	if got := r.server.Contents(); !slices.Equal(got, want) {
		t.Errorf("the cluster has %v, want %v", got, want)
	}
}

// A deletion that was interrupted and never repeated is finished by the deletion of the next volume
// of that name.
func TestForgottenDeletionIsFinished(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	first, third := r.create(t, request("pvc-1")), r.create(t, request("pvc-3"))
	clone := r.mustCopy(t, copyRequest("pvc-2", volume.Source{VolumeID: first.ID}))
	check(t, r.Delete(t.Context(), first.ID))
	r.server.Inject(fakeceph.Fault{Call: "Pool.Remove", Errno: unix.ETIMEDOUT, IsLate: true, IsLast: true})
	volumetest.WantKind(t, r.Delete(t.Context(), clone.ID), volume.KindUnavailable)
	clone = r.mustCopy(t, copyRequest("pvc-2", volume.Source{VolumeID: third.ID}))
	check(t, r.Delete(t.Context(), third.ID))
	check(t, r.Delete(t.Context(), clone.ID))
	r.wantEmpty(t)
}
