package rbd

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/growvol/growvol/pkg/rbd/internal/fakeceph"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// This file tests the adoption of volumes and snapshots of ceph-csi, laid out by
// cephcsi_layout_test.go. ceph_test.go runs adopt on a real cluster.

// adopt uses a volume and a snapshot of ceph-csi in every way, and deletes them.
func adopt(t *testing.T, r *rig, l cephCSILayout) {
	t.Helper()
	l.makeVolume(t)
	l.makeSnapshot(t)
	v, err := r.Get(t.Context(), l.volumeHandle())
	if err != nil || v.Size != volume.GiB || v.ID != l.volumeHandle() {
		t.Fatalf("got %+v, %v", v, err)
	}
	old, err := r.GetSnapshot(t.Context(), l.snapshotHandle())
	if err != nil || old.Size != volume.GiB || old.ID != l.snapshotHandle() || old.VolumeID != v.ID || !old.Ready {
		t.Fatalf("got %+v, %v", old, err)
	}
	if v, err = r.Expand(t.Context(), v.ID, 2*volume.GiB); err != nil || v.Size != 2*volume.GiB {
		t.Fatalf("got %+v, %v", v, err)
	}
	s := r.snapshot(t, "adopted-s", v.ID)
	if s.VolumeID != v.ID || s.Size != 2*volume.GiB {
		t.Errorf("got %+v", s)
	}
	sources := []volume.Source{{SnapshotID: s.ID}, {SnapshotID: old.ID}, {VolumeID: v.ID}}
	var copies []string
	for i, source := range sources {
		req := copyRequest(fmt.Sprintf("adopted-%d", i), source, "clusterID", l.cluster)
		req.Size, req.Range.Required = 3*volume.GiB, 3*volume.GiB
		made := r.mustCopy(t, req)
		if made.Size != 3*volume.GiB || made.Source != source {
			t.Errorf("got %+v", made)
		}
		copies = append(copies, made.ID)
	}
	for range 2 { // every deletion can be repeated
		check(t, r.Delete(t.Context(), v.ID))
		check(t, r.DeleteSnapshot(t.Context(), old.ID))
		check(t, r.DeleteSnapshot(t.Context(), s.ID))
	}
	l.checkJournal(t, "csi.snap.other", "csi.volume.other")
	_, err = r.Get(t.Context(), v.ID)
	volumetest.WantKind(t, err, volume.KindNotFound)
	_, err = r.GetSnapshot(t.Context(), old.ID)
	volumetest.WantKind(t, err, volume.KindNotFound)
	for _, id := range copies {
		check(t, r.Delete(t.Context(), id))
	}
}

func TestCephCSIVolumesAreAdopted(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	l := r.fakeLayout(t, "volumes", "")
	adopt(t, r, l)
	want := []string{"object volumes//csi.snaps.default", "object volumes//csi.volumes.default"}
	if got := r.server.Contents(); !slices.Equal(got, want) {
		t.Errorf("the cluster has %v, want %v", got, want)
	}
}

func TestCephCSIVolumesOfANamespaceAreAdopted(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c := r.config["a"]
	c.Namespace = "tenant"
	r.config["a"] = c
	r.server.CreateNamespace("volumes", "tenant")
	adopt(t, r, r.fakeLayout(t, "volumes", "tenant"))
}

func TestCephCSIVolumeWithoutEntryHasTheDefaultName(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	l := r.fakeLayout(t, "volumes", "")
	l.makeVolume(t)
	check(t, l.pool.RemoveObject("csi.volume."+volumeUUID))
	r.wantSize(t, l.volumeHandle(), volume.GiB)
	check(t, r.Delete(t.Context(), l.volumeHandle()))
	if got, want := r.server.Contents(), []string{"object volumes//csi.volumes.default"}; !slices.Equal(got, want) {
		t.Errorf("the cluster has %v, want %v", got, want)
	}
}

func TestCephCSIVolumeWithANameOfItsOwn(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	l := r.fakeLayout(t, "volumes", "")
	l.makeVolume(t)
	l.setOmap(t, "csi.volume."+volumeUUID, map[string]string{"csi.imagename": "team-" + volumeUUID})
	check(t, l.pool.Rename("csi-vol-"+volumeUUID, "team-"+volumeUUID))
	r.wantSize(t, l.volumeHandle(), volume.GiB)
	check(t, r.Delete(t.Context(), l.volumeHandle()))
	l.checkJournal(t, "csi.volume.other")
}

// An entry that says that the directory is in another pool than the image.
func TestCephCSIDirectoryInAnotherPool(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	l := r.fakeLayout(t, "volumes", "")
	l.makeVolume(t)
	l.setOmap(t, "csi.volume."+volumeUUID, map[string]string{"csi.journalpool": "0000000000000002"})
	check(t, l.pool.RemoveOmapKeys("csi.volumes.default", "csi.volume.pvc-9d1c"))
	r.server.SetOmap("other", "", "csi.volumes.default", map[string]string{
		"csi.volume.pvc-9d1c": "0000000000000001/" + volumeUUID, "csi.volume.pvc-x": "x",
	})
	check(t, r.Delete(t.Context(), l.volumeHandle()))
	values, err := r.testPool(t, "other", "").OmapValues("csi.volumes.default")
	if err != nil || len(values) != 1 || values["csi.volume.pvc-x"] != "x" {
		t.Errorf("got %v, %v", values, err)
	}
}

// With topology, ceph-csi leaves the entry in the pool of the image empty.
func TestCephCSIVolumeWithTopology(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	l := r.fakeLayout(t, "volumes", "")
	l.makeVolume(t)
	check(t, l.pool.RemoveObject("csi.volumes.default"))
	values, err := l.pool.OmapValues("csi.volume." + volumeUUID)
	check(t, err)
	values["csi.journalpool"] = "0000000000000002"
	r.server.SetOmap("other", "", "csi.volume."+volumeUUID, values)
	r.server.SetOmap("other", "", "csi.volumes.default", map[string]string{
		"csi.volume.pvc-9d1c": "0000000000000001/" + volumeUUID,
	})
	check(t, l.pool.RemoveObject("csi.volume."+volumeUUID))
	r.server.SetOmap("volumes", "", "csi.volume."+volumeUUID, nil)
	r.wantSize(t, l.volumeHandle(), volume.GiB)
	check(t, r.Delete(t.Context(), l.volumeHandle()))
	want := []string{"object other//csi.volume." + volumeUUID, "object other//csi.volumes.default"} // as ceph-csi does
	if got := r.server.Contents(); !slices.Equal(got, want) {
		t.Errorf("the cluster has %v, want %v", got, want)
	}
}

// The handle names no image by itself: its deletion must not be reported as done.
func TestMigratedVolumeOfCephCSIIsRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const id = "mig_mons-b7f67366bb43f32e07d8a261a7840da9_image-e0b45b52-7e09-47d3-8f1b-806995fa4412_706f6f6c"
	_, err := r.Get(t.Context(), id)
	volumetest.WantKind(t, err, volume.KindPrecondition, "kubernetes.io/rbd")
	volumetest.WantKind(t, r.Delete(t.Context(), id), volume.KindPrecondition, "Retain")
}

// A name that ceph-csi has given to another volume since stays.
func TestCephCSINameOfAnotherVolumeStays(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	l := r.fakeLayout(t, "volumes", "")
	l.makeVolume(t)
	l.setOmap(t, "csi.volumes.default", map[string]string{"csi.volume.pvc-9d1c": snapshotUUID})
	check(t, r.Delete(t.Context(), l.volumeHandle()))
	l.checkJournal(t, "csi.volume.other", "csi.volume.pvc-9d1c")
}

func TestCephCSIPoolThatIsMissingIsNoProof(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	id := cephCSIHandle("a", 77, volumeUUID)
	_, err := r.Get(t.Context(), id)
	volumetest.WantKind(t, err, volume.KindUnavailable, "ceph osd pool ls detail")
	volumetest.WantKind(t, r.Delete(t.Context(), id), volume.KindUnavailable)
}

// Encrypted volumes of ceph-csi are deleted, but neither attached, copied nor expanded: the driver
// cannot open them. Those whose files are encrypted are marked only in the journal.
func TestCephCSIEncryptedVolumeIsRefused(t *testing.T) {
	t.Parallel()
	for name, mark := range map[string]func(t *testing.T, l cephCSILayout){
		"block": func(t *testing.T, l cephCSILayout) {
			t.Helper()
			id, err := l.pool.ImageID("csi-vol-" + volumeUUID)
			check(t, err)
			check(t, l.pool.SetMetadata(id, "rbd.csi.ceph.com/encrypted", "encrypted"))
			l.makeSnapshot(t)
		},
		"file": func(t *testing.T, l cephCSILayout) {
			t.Helper()
			l.makeSnapshot(t)
			for _, entry := range []string{"csi.volume." + volumeUUID, "csi.snap." + snapshotUUID} {
				l.setOmap(t, entry, map[string]string{"csi.volume.encryptKMS": "vault", "csi.volume.encryptionType": "file"})
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.withNodes(t)
			l := r.fakeLayout(t, "volumes", "")
			l.makeVolume(t)
			mark(t, l)
			before := r.server.Contents()
			_, err := r.CreateSnapshot(t.Context(), volume.SnapshotRequest{Name: "s", VolumeID: l.volumeHandle()})
			volumetest.WantKind(t, err, volume.KindPrecondition, "ceph-csi has encrypted image volumes/csi-vol-"+volumeUUID)
			group := volume.GroupSnapshotRequest{Name: "g", VolumeIDs: []string{l.volumeHandle()}}
			_, err = r.CreateGroupSnapshot(t.Context(), group)
			volumetest.WantKind(t, err, volume.KindPrecondition, "ceph-csi has encrypted")
			_, err = r.Expand(t.Context(), l.volumeHandle(), 2*volume.GiB)
			volumetest.WantKind(t, err, volume.KindPrecondition, "ceph-csi has encrypted")
			r.wantSize(t, l.volumeHandle(), volume.GiB)
			_, err = r.Attach(t.Context(), attachRequest(l.volumeHandle(), "n1"))
			volumetest.WantKind(t, err, volume.KindPrecondition, "ceph-csi has encrypted")
			for _, source := range []volume.Source{{VolumeID: l.volumeHandle()}, {SnapshotID: l.snapshotHandle()}} {
				_, err = r.createCopy(t, copyRequest("pvc-1", source))
				volumetest.WantKind(t, err, volume.KindPrecondition, "encrypted")
			}
			if got := r.server.Contents(); !slices.Equal(got, before) {
				t.Errorf("refused calls have changed %v to %v", before, got)
			}
			check(t, r.DeleteSnapshot(t.Context(), l.snapshotHandle()))
			check(t, r.Delete(t.Context(), l.volumeHandle()))
			l.checkJournal(t, "csi.snap.other", "csi.volume.other")
		})
	}
}

func TestCephCSIDeletionsConverge(t *testing.T) {
	t.Parallel()
	scenario{
		prepare: func(t *testing.T, r *rig) {
			t.Helper()
			l := r.fakeLayout(t, "volumes", "")
			l.makeVolume(t)
			l.makeSnapshot(t)
		},
		run: func(t *testing.T, r *rig) error {
			t.Helper()
			if err := r.Delete(t.Context(), cephCSIHandle("a", 1, volumeUUID)); err != nil {
				return err
			}
			return r.DeleteSnapshot(t.Context(), cephCSIHandle("a", 1, snapshotUUID))
		},
		want: []string{"object volumes//csi.snaps.default", "object volumes//csi.volumes.default"},
	}.checkConverges(t)
}

func TestCephCSIVolumeInUseIsNotForgotten(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	l := r.fakeLayout(t, "volumes", "")
	l.makeVolume(t)
	m := r.server.Map("volumes", "", "csi-vol-"+volumeUUID, fakeceph.MapOptions{})
	before := strings.Join(r.server.Contents(), ",")
	volumetest.WantKind(t, r.Delete(t.Context(), l.volumeHandle()), volume.KindPrecondition, m.Address)
	l.checkJournal(t, "csi.volume.other", "csi.volume.pvc-9d1c")
	if got := strings.Join(r.server.Contents(), ","); got != before {
		t.Errorf("the cluster has %s, had %s", got, before)
	}
}

func TestClassWithCephCSIsEncryption(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	req := request("pvc-1", "encryptionKMSID", "vault")
	r.create(t, req)
	req = request("pvc-2", "encryptionKMSID", "vault")
	req.Encrypted = true
	_, err := r.Create(t.Context(), req)
	volumetest.WantKind(t, err, volume.KindInvalid, "encryptionKMSID")
}
