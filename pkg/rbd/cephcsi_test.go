package rbd

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/rbd/internal/fakeceph"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// This file tests the adoption of volumes and snapshots of ceph-csi, laid out as ceph-csi does it
// (internal/journal/voljournal.go, internal/rbd/snapshot.go). cephcsi_ceph_test.go runs adopt on a
// real cluster.

const (
	volumeUUID   = "a6bf0a0b-4f4b-4f39-9c02-5f1c3a1f6f33"
	snapshotUUID = "5c0d7a55-0d2f-4a35-8f6c-0e6e2a5d1c11"
)

// cephCSILayout writes what ceph-csi writes.
type cephCSILayout struct {
	cluster string // id in the configuration
	pool    ceph.Pool
	setOmap func(t *testing.T, object string, values map[string]string)
}

// cephCSIHandle returns the handle of a volume or snapshot in a cluster.
func cephCSIHandle(clusterID string, pool int64, uuid string) string {
	return fmt.Sprintf("0001-%04x-%s-%016x-%s", len(clusterID), clusterID, pool, uuid)
}

func (l cephCSILayout) volumeHandle() string {
	return cephCSIHandle(l.cluster, l.pool.ID(), volumeUUID)
}

func (l cephCSILayout) snapshotHandle() string {
	return cephCSIHandle(l.cluster, l.pool.ID(), snapshotUUID)
}

// makeVolume makes the volume of a claim, of 1 GiB, and its entry.
func (l cephCSILayout) makeVolume(t *testing.T) {
	t.Helper()
	name := "csi-vol-" + volumeUUID
	l.setOmap(t, "csi.volume."+volumeUUID, map[string]string{
		"csi.volname": "pvc-9d1c", "csi.imagename": name, "csi.imageid": "10", "csi.volume.owner": "default",
	})
	l.setOmap(t, "csi.volumes.default", map[string]string{"csi.volume.pvc-9d1c": volumeUUID, "csi.volume.pvc-other": "x"})
	check(t, l.pool.Create(name, 1<<30, ceph.ImageOptions{Features: []string{"layering"}}))
}

// makeSnapshot makes a snapshot of the volume: a clone of a snapshot that is removed, with a
// snapshot of the clone's name, and its entry.
func (l cephCSILayout) makeSnapshot(t *testing.T) {
	t.Helper()
	source, name := "csi-vol-"+volumeUUID, "csi-snap-"+snapshotUUID
	l.setOmap(t, "csi.snap."+snapshotUUID, map[string]string{
		"csi.snapname": "snapshot-77aa", "csi.imagename": name, "csi.source": source,
	})
	l.setOmap(t, "csi.snaps.default", map[string]string{"csi.snap.snapshot-77aa": snapshotUUID})
	im, err := l.pool.Open(source, false)
	check(t, err)
	check(t, im.CreateSnapshot(name))
	check(t, l.pool.Clone(l.pool, source, name, name, ceph.ImageOptions{Features: []string{"layering", "deep-flatten"}}))
	check(t, im.RemoveSnapshot(name))
	check(t, im.Close())
	im, err = l.pool.Open(name, false)
	check(t, err)
	check(t, im.CreateSnapshot(name))
	check(t, im.Close())
}

// checkJournal fails the test unless the directories have exactly those names of requests.
func (l cephCSILayout) checkJournal(t *testing.T, want ...string) {
	t.Helper()
	var got []string
	for _, object := range []string{"csi.volumes.default", "csi.snaps.default"} {
		values, err := l.pool.OmapValues(object)
		if err != nil && !isMissing(err) {
			t.Fatal(err)
		}
		for key := range values {
			got = append(got, key)
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("the journal has %v, want %v", got, want)
	}
}

// fakeLayout returns the layout in a pool of the fake.
func (r *rig) fakeLayout(t *testing.T, poolName, namespace string) cephCSILayout {
	t.Helper()
	return cephCSILayout{
		cluster: "a",
		pool:    r.testPool(t, poolName, namespace),
		setOmap: func(_ *testing.T, object string, values map[string]string) {
			r.server.SetOmap(poolName, namespace, object, values)
		},
	}
}

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
	l.checkJournal(t, "csi.volume.pvc-other")
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
	l.checkJournal(t, "csi.volume.pvc-other")
}

// With topology, the directory is in another pool than the image.
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

// A name that ceph-csi has given to another volume since stays.
func TestCephCSINameOfAnotherVolumeStays(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	l := r.fakeLayout(t, "volumes", "")
	l.makeVolume(t)
	l.setOmap(t, "csi.volumes.default", map[string]string{"csi.volume.pvc-9d1c": snapshotUUID})
	check(t, r.Delete(t.Context(), l.volumeHandle()))
	l.checkJournal(t, "csi.volume.pvc-9d1c", "csi.volume.pvc-other")
}

func TestCephCSIPoolThatIsMissingIsNoProof(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	id := cephCSIHandle("a", 77, volumeUUID)
	_, err := r.Get(t.Context(), id)
	volumetest.WantKind(t, err, volume.KindUnavailable, "ceph osd pool ls detail")
	volumetest.WantKind(t, r.Delete(t.Context(), id), volume.KindUnavailable)
}

// Encrypted volumes of ceph-csi are deleted, but neither copied nor expanded: the driver cannot
// open them.
func TestCephCSIEncryptedVolumeIsNeitherCopiedNorExpanded(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	l := r.fakeLayout(t, "volumes", "")
	l.makeVolume(t)
	id, err := l.pool.ImageID("csi-vol-" + volumeUUID)
	check(t, err)
	check(t, l.pool.SetMetadata(id, "rbd.csi.ceph.com/encrypted", "encrypted"))
	l.makeSnapshot(t)
	_, err = r.CreateSnapshot(t.Context(), volume.SnapshotRequest{Name: "s", VolumeID: l.volumeHandle()})
	volumetest.WantKind(t, err, volume.KindPrecondition, "ceph-csi has encrypted image volumes/csi-vol-"+volumeUUID)
	_, err = r.Expand(t.Context(), l.volumeHandle(), 2*volume.GiB)
	volumetest.WantKind(t, err, volume.KindPrecondition, "ceph-csi has encrypted")
	r.wantSize(t, l.volumeHandle(), volume.GiB)
	for _, source := range []volume.Source{{VolumeID: l.volumeHandle()}, {SnapshotID: l.snapshotHandle()}} {
		_, err = r.createCopy(t, copyRequest("pvc-1", source))
		volumetest.WantKind(t, err, volume.KindPrecondition, "encrypted")
	}
	check(t, r.DeleteSnapshot(t.Context(), l.snapshotHandle()))
	check(t, r.Delete(t.Context(), l.volumeHandle()))
	l.checkJournal(t, "csi.volume.pvc-other")
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
	l.checkJournal(t, "csi.volume.pvc-9d1c", "csi.volume.pvc-other")
	if got := strings.Join(r.server.Contents(), ","); got != before {
		t.Errorf("the cluster has %s, had %s", got, before)
	}
}
