//go:build ceph

package rbd

import (
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/volume"
)

// This file adopts volumes of ceph-csi on a real cluster, that of tests/ceph. Images and journal
// are made by cephcsi_layout_test.go, through librbd and the program rados; what ceph-csi deletes
// is removed by Ceph's manager.

// realLayout returns the layout in the pool volumes of the real cluster, with an empty journal.
func (r *rig) realLayout(t *testing.T, dir string) cephCSILayout {
	t.Helper()
	run := func(t *testing.T, program string, arguments ...string) string {
		t.Helper()
		arguments = append([]string{"-c", filepath.Join(dir, "ceph.conf"), "--name", "client.admin"}, arguments...)
		out, err := exec.CommandContext(t.Context(), program, arguments...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v: %v: %s", program, arguments, err, out)
		}
		return string(out)
	}
	l := cephCSILayout{
		cluster: realCluster, pool: r.realPool(t),
		setOmap: func(t *testing.T, object string, values map[string]string) {
			t.Helper()
			for key, value := range values {
				run(t, "rados", "-p", "volumes", "setomapval", object, key, value)
			}
		},
		discard: func(t *testing.T, image, id string) {
			t.Helper()
			run(t, "rbd", "trash", "mv", "volumes/"+image)
			run(t, "ceph", "rbd", "task", "add", "trash", "remove", "volumes/"+id)
		},
	}
	remove := func() {
		for _, object := range []string{"csi.volumes.default", "csi.snaps.default"} {
			if err := ignoreMissing(l.pool.RemoveObject(object)); err != nil {
				t.Error(err)
			}
		}
	}
	remove()
	t.Cleanup(remove)
	return l
}

// checkNothingLeft fails the test if the pool has images or objects of this driver or of ceph-csi.
func (r *rig) checkNothingLeft(t *testing.T) {
	t.Helper()
	left := slices.DeleteFunc(r.realNames(t), func(name string) bool {
		return !strings.HasPrefix(name, "csi-") && !strings.Contains(name, "adopted")
	})
	if len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestCephCSIVolumesOnCeph(t *testing.T) {
	b, dir := newRealRig(t)
	r := &rig{Backend: b}
	adopt(t, r, r.realLayout(t, dir))
	r.checkNothingLeft(t)
}

// ceph-csi has deleted a snapshot that has a restored volume, and a clone that has a snapshot:
// their images are in the trash, where Ceph's manager tries again every 30 s to remove them.
func TestCephCSIImagesInTheTrashOnCeph(t *testing.T) {
	b, dir := newRealRig(t)
	r := &rig{Backend: b}
	l := r.realLayout(t, dir)
	source, snapshot, restored, clone, last := familyUUID(0), familyUUID(1), familyUUID(2), familyUUID(3), familyUUID(4)
	l.makeVolumeOf(t, source, "pvc-source")
	l.makeSnapshotOf(t, snapshot, "snapshot-1", source)
	l.restore(t, restored, "pvc-restored", snapshot)
	l.clone(t, clone, "pvc-clone", source)
	l.makeSnapshotOf(t, last, "snapshot-2", clone)
	id, err := l.pool.ImageID("csi-snap-" + snapshot)
	check(t, err)
	l.deleteSnapshot(t, snapshot)
	l.deleteVolume(t, clone)
	// As the fake does.
	if err := l.pool.RemoveFromTrash(id); !errors.Is(err, unix.ENOTEMPTY) {
		t.Errorf("an image in the trash with a clone: got %v, want ENOTEMPTY", err)
	}
	if err := l.pool.RemoveFromTrash(id + "0"); !isMissing(err) {
		t.Errorf("an image that is not in the trash: got %v, want ENOENT", err)
	}
	check(t, r.Delete(t.Context(), l.handle(source)))
	r.checkVolumes(t, l, restored)
	check(t, r.Delete(t.Context(), l.handle(restored)))
	check(t, r.DeleteSnapshot(t.Context(), l.handle(last)))
	r.checkNothingLeft(t)
	l.checkJournal(t, "csi.snap.other", "csi.volume.other")
	awaitEmptyTrash(t, l.pool)
}

// checkVolumes fails the test unless the volume of that UUID is there and grows.
func (r *rig) checkVolumes(t *testing.T, l cephCSILayout, uuid string) {
	t.Helper()
	v, err := r.Expand(t.Context(), l.handle(uuid), 2*volume.GiB)
	if err != nil || v.Size != 2*volume.GiB {
		t.Errorf("got %+v, %v", v, err)
	}
}

// awaitEmptyTrash waits until no image is in the trash, which is at most the 30 s after which
// Ceph's manager tries again.
func awaitEmptyTrash(t *testing.T, pool ceph.Pool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		left, err := pool.OmapValues("rbd_trash")
		check(t, ignoreMissing(err))
		if len(left) == 0 {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("images are in the trash still: %q", left)
		case <-tick.C:
		}
	}
}
