package rbd

import (
	"fmt"
	"slices"
	"testing"

	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
)

// This file makes images and journals as ceph-csi makes them: every key, in the same order of steps
// (ceph-csi, internal/journal/voljournal.go: ReserveName, StoreImageID, UndoReservation;
// internal/rbd/snapshot.go: createRBDClone; internal/rbd/clone.go: createCloneFromImage;
// internal/rbd/rbd_util.go: deleteImage).

const (
	volumeUUID   = "a6bf0a0b-4f4b-4f39-9c02-5f1c3a1f6f33"
	snapshotUUID = "5c0d7a55-0d2f-4a35-8f6c-0e6e2a5d1c11"
)

// cephCSILayout writes what ceph-csi writes.
type cephCSILayout struct {
	cluster string // id in the configuration
	pool    ceph.Pool
	setOmap func(t *testing.T, object string, values map[string]string)
	// discard moves an image to the trash, and has Ceph's manager remove it from there.
	discard func(t *testing.T, image, id string)
}

// cephCSIHandle returns the handle of a volume or snapshot in a cluster.
func cephCSIHandle(clusterID string, pool int64, uuid string) string {
	return fmt.Sprintf("0001-%04x-%s-%016x-%s", len(clusterID), clusterID, pool, uuid)
}

func (l cephCSILayout) handle(uuid string) string { return cephCSIHandle(l.cluster, l.pool.ID(), uuid) }

func (l cephCSILayout) volumeHandle() string { return l.handle(volumeUUID) }

func (l cephCSILayout) snapshotHandle() string { return l.handle(snapshotUUID) }

// reserve writes the entry of a volume, or of a snapshot of the source image. The directory has one
// more name.
func (l cephCSILayout) reserve(t *testing.T, j journal, uuid, request, source string) (image string) {
	t.Helper()
	image = j.imagePrefix + uuid
	l.setOmap(t, j.directory, map[string]string{j.requestKey + request: uuid, j.requestKey + "other": "x"})
	values := map[string]string{j.nameKey: request, "csi.imagename": image, "csi.volume.owner": "default"}
	if source != "" {
		values["csi.source"] = source
	}
	l.setOmap(t, j.entry+uuid, values)
	return image
}

// storeID completes the entry when the image exists.
func (l cephCSILayout) storeID(t *testing.T, j journal, uuid string) {
	t.Helper()
	id, err := l.pool.ImageID(j.imagePrefix + uuid)
	check(t, err)
	l.setOmap(t, j.entry+uuid, map[string]string{"csi.imageid": id})
}

// makeVolume makes the volume of a claim, of 1 GiB.
func (l cephCSILayout) makeVolume(t *testing.T) {
	t.Helper()
	l.makeVolumeOf(t, volumeUUID, "pvc-9d1c")
}

func (l cephCSILayout) makeVolumeOf(t *testing.T, uuid, request string) {
	t.Helper()
	image := l.reserve(t, volumeJournal(), uuid, request, "")
	check(t, l.pool.Create(image, 1<<30, ceph.ImageOptions{Features: []string{"layering"}}))
	l.storeID(t, volumeJournal(), uuid)
}

// makeSnapshot makes a snapshot of the volume of makeVolume.
func (l cephCSILayout) makeSnapshot(t *testing.T) {
	t.Helper()
	l.makeSnapshotOf(t, snapshotUUID, "snapshot-77aa", volumeUUID)
}

// makeSnapshotOf makes a snapshot of a volume: a clone, with a snapshot of the clone's name.
func (l cephCSILayout) makeSnapshotOf(t *testing.T, uuid, request, volumeUUID string) {
	t.Helper()
	source := "csi-vol-" + volumeUUID
	image := l.reserve(t, snapshotJournal(), uuid, request, source)
	l.cloneImage(t, source, image, "layering", "deep-flatten")
	l.changeImage(t, image, func(im ceph.Image) error { return im.CreateSnapshot(image) })
	l.storeID(t, snapshotJournal(), uuid)
}

// restore makes a volume from a snapshot.
func (l cephCSILayout) restore(t *testing.T, uuid, request, snapshotUUID string) {
	t.Helper()
	image := l.reserve(t, volumeJournal(), uuid, request, "")
	source := "csi-snap-" + snapshotUUID
	check(t, l.pool.Clone(l.pool, source, source, image, ceph.ImageOptions{Features: []string{"layering"}}))
	l.storeID(t, volumeJournal(), uuid)
}

// clone makes a volume from another volume, with the temporary clone between them.
func (l cephCSILayout) clone(t *testing.T, uuid, request, sourceUUID string) {
	t.Helper()
	image := l.reserve(t, volumeJournal(), uuid, request, "")
	l.cloneImage(t, "csi-vol-"+sourceUUID, image+"-temp", "layering", "deep-flatten")
	l.cloneImage(t, image+"-temp", image, "layering")
	l.storeID(t, volumeJournal(), uuid)
}

// cloneImage clones an image through a snapshot of the clone's name, which is removed again.
func (l cephCSILayout) cloneImage(t *testing.T, source, image string, features ...string) {
	t.Helper()
	l.changeImage(t, source, func(im ceph.Image) error { return im.CreateSnapshot(image) })
	check(t, l.pool.Clone(l.pool, source, image, image, ceph.ImageOptions{Features: features}))
	l.changeImage(t, source, func(im ceph.Image) error { return im.RemoveSnapshot(image) })
}

func (l cephCSILayout) changeImage(t *testing.T, image string, change func(ceph.Image) error) {
	t.Helper()
	im, err := l.pool.Open(image, false)
	check(t, err)
	check(t, change(im))
	check(t, im.Close())
}

// deleteVolume deletes a volume as ceph-csi does.
func (l cephCSILayout) deleteVolume(t *testing.T, uuid string) {
	t.Helper()
	image := "csi-vol-" + uuid
	for _, name := range []string{image + "-temp", image} {
		if id, err := l.pool.ImageID(name); err == nil {
			l.discard(t, name, id)
		}
	}
	l.undo(t, volumeJournal(), uuid)
}

// deleteSnapshot deletes a snapshot as ceph-csi does.
func (l cephCSILayout) deleteSnapshot(t *testing.T, uuid string) {
	t.Helper()
	image := "csi-snap-" + uuid
	l.changeImage(t, image, func(im ceph.Image) error { return im.RemoveSnapshot(image) })
	id, err := l.pool.ImageID(image)
	check(t, err)
	l.discard(t, image, id)
	l.undo(t, snapshotJournal(), uuid)
}

// undo removes the entry of a volume or snapshot.
func (l cephCSILayout) undo(t *testing.T, j journal, uuid string) {
	t.Helper()
	values, err := l.pool.OmapValues(j.entry + uuid)
	check(t, err)
	check(t, l.pool.RemoveObject(j.entry+uuid))
	check(t, l.pool.RemoveOmapKeys(j.directory, j.requestKey+values[j.nameKey]))
}

// checkJournal fails the test unless the directories have exactly those names of requests, besides
// the one more of reserve.
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
		discard: func(_ *testing.T, image, _ string) { r.server.MoveToTrash(poolName, namespace, image) },
	}
}
