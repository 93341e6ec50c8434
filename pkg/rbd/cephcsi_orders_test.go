package rbd

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/rbd/internal/fakeceph"
	"github.com/growvol/growvol/pkg/volume"
)

// This file tests the deletion of volumes and snapshots of ceph-csi that depend on each other, in
// many orders: nothing may be left. Some are deleted by ceph-csi before it is replaced, so that
// their images wait in the trash for Ceph's manager.

// family is what ceph-csi has made of a volume, and what this driver has made of it then.
type family struct {
	*rig

	layout  cephCSILayout
	trashed []string // ids of the images that ceph-csi has deleted
	members []member
}

// member is a volume or a snapshot.
type member struct {
	name        string
	delete      func() error
	byCephCSI   func() // nil: made by this driver
	isDiscarded bool
}

func familyUUID(n int) string { return fmt.Sprintf("00000000-0000-4000-8000-%012d", n) }

// newFamily makes: a volume; a snapshot of it, and a volume restored from that; a clone of the
// volume, a snapshot of the clone, and a clone of the clone. This driver makes a snapshot of the
// first volume, a clone of the clone, and a volume restored from ceph-csi's snapshot.
func newFamily(t *testing.T) *family {
	t.Helper()
	r := newRig(t)
	f := &family{rig: r, layout: r.fakeLayout(t, "volumes", "")}
	f.layout.discard = func(_ *testing.T, image, id string) {
		r.server.MoveToTrash("volumes", "", image)
		f.trashed = append(f.trashed, id)
	}
	l := f.layout
	for n, makeMember := range []func(uuid, request string){
		func(uuid, request string) { l.makeVolumeOf(t, uuid, request) },
		func(uuid, request string) { l.makeSnapshotOf(t, uuid, request, familyUUID(0)) },
		func(uuid, request string) { l.restore(t, uuid, request, familyUUID(1)) },
		func(uuid, request string) { l.clone(t, uuid, request, familyUUID(0)) },
		func(uuid, request string) { l.makeSnapshotOf(t, uuid, request, familyUUID(3)) },
		func(uuid, request string) { l.clone(t, uuid, request, familyUUID(3)) },
	} {
		uuid := familyUUID(n)
		makeMember(uuid, fmt.Sprintf("request-%d", n))
		m := member{name: fmt.Sprint("ceph-csi ", n), byCephCSI: func() { l.deleteVolume(t, uuid) }}
		m.delete = func() error { return r.Delete(t.Context(), l.handle(uuid)) }
		if n == 1 || n == 4 {
			m.delete = func() error { return r.DeleteSnapshot(t.Context(), l.handle(uuid)) }
			m.byCephCSI = func() { l.deleteSnapshot(t, uuid) }
		}
		f.members = append(f.members, m)
	}
	s := r.snapshot(t, "own", l.handle(familyUUID(0)))
	f.add("own snapshot", func() error { return r.DeleteSnapshot(t.Context(), s.ID) })
	for name, source := range map[string]volume.Source{
		"own-clone": {VolumeID: l.handle(familyUUID(3))}, "own-restored": {SnapshotID: l.handle(familyUUID(1))},
	} {
		v := r.mustCopy(t, copyRequest(name, source))
		f.add(name, func() error { return r.Delete(t.Context(), v.ID) })
	}
	return f
}

func (f *family) add(name string, remove func() error) {
	f.members = append(f.members, member{name: name, delete: remove})
}

// runManager does what Ceph's manager does: it removes from the trash what can be removed.
func (f *family) runManager(t *testing.T) {
	t.Helper()
	for isProgress := true; isProgress; {
		before := len(f.trashed)
		f.trashed = slices.DeleteFunc(f.trashed, func(id string) bool {
			err := f.layout.pool.RemoveFromTrash(id)
			if errors.Is(err, unix.ENOTEMPTY) {
				return false
			}
			check(t, ignoreMissing(err))
			return true
		})
		isProgress = len(f.trashed) < before
	}
}

func TestCephCSIFamilyIsDeletedInAnyOrder(t *testing.T) {
	t.Parallel()
	for seed := range uint64(120) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // for orders of tests
			f := newFamily(t)
			random.Shuffle(len(f.members), func(i, j int) { f.members[i], f.members[j] = f.members[j], f.members[i] })
			isManagerFast := seed%3 == 0
			var order []string
			if seed%2 == 0 {
				for i := range f.members {
					m := &f.members[i]
					// ceph-csi refuses to delete none of its own; the first has a snapshot of this driver.
					if m.byCephCSI == nil || m.name == "ceph-csi 0" || random.IntN(2) == 0 {
						continue
					}
					m.byCephCSI()
					m.isDiscarded = true
					order = append(order, m.name+" by ceph-csi")
				}
			}
			for _, m := range f.members {
				if m.isDiscarded {
					continue
				}
				if isManagerFast {
					f.runManager(t)
				}
				order = append(order, m.name)
				for range 2 {
					if err := m.delete(); err != nil {
						t.Fatalf("%s: %v", strings.Join(order, ", "), err)
					}
				}
			}
			f.runManager(t)
			want := []string{"object volumes//csi.snaps.default", "object volumes//csi.volumes.default"}
			if got := f.server.Contents(); !slices.Equal(got, want) {
				t.Errorf("%s: the cluster has %v", strings.Join(order, ", "), got)
			}
			f.layout.checkJournal(t, "csi.snap.other", "csi.volume.other")
		})
	}
}

// An image that a person has moved to the trash stays there: its entry still exists, or its name is
// not one of ceph-csi.
func TestImagesThatOthersMovedToTheTrashStay(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(t *testing.T, r *rig, l cephCSILayout) (image string){
		"snapshot of ceph-csi": func(t *testing.T, _ *rig, l cephCSILayout) string {
			t.Helper()
			l.makeSnapshot(t)
			image := "csi-snap-" + snapshotUUID
			l.changeImage(t, image, func(im ceph.Image) error { return im.RemoveSnapshot(image) })
			return image
		},
		"image of a person": func(t *testing.T, _ *rig, l cephCSILayout) string {
			t.Helper()
			l.cloneImage(t, "csi-vol-"+volumeUUID, "mine", "layering")
			return "mine"
		},
		"clone of this driver": func(t *testing.T, r *rig, l cephCSILayout) string {
			t.Helper()
			r.mustCopy(t, copyRequest("pvc-"+snapshotUUID, volume.Source{VolumeID: l.volumeHandle()}))
			return "csi-vol-pvc-" + snapshotUUID
		},
		"clone of this driver with a name of ceph-csi": func(t *testing.T, r *rig, l cephCSILayout) string {
			t.Helper()
			r.mustCopy(t, copyRequest(snapshotUUID, volume.Source{VolumeID: l.volumeHandle()}))
			return "csi-vol-" + snapshotUUID
		},
		"volume of OpenStack": func(t *testing.T, _ *rig, l cephCSILayout) string {
			t.Helper()
			l.cloneImage(t, "csi-vol-"+volumeUUID, "volume-"+snapshotUUID, "layering")
			return "volume-" + snapshotUUID
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			l := r.fakeLayout(t, "volumes", "")
			l.makeVolume(t)
			image := prepare(t, r, l)
			r.server.MoveToTrash("volumes", "", image)
			check(t, r.Delete(t.Context(), l.volumeHandle()))
			if got := r.server.Contents(); !slices.Contains(got, "volumes//"+image+" (trash)") {
				t.Errorf("the image %s is no longer in the trash: %v", image, got)
			}
		})
	}
}

// A volume of this driver that a person has moved to the trash stays there when its last clone is
// deleted.
func TestOwnParentInTheTrashStays(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"pvc-" + volumeUUID, volumeUUID} {
		r := newRig(t)
		source := r.create(t, request(name))
		clone := r.mustCopy(t, copyRequest("clone", volume.Source{VolumeID: source.ID}))
		r.server.MoveToTrash("volumes", "", "csi-vol-"+name)
		check(t, r.Delete(t.Context(), clone.ID))
		if got := r.server.Contents(); !slices.Contains(got, "volumes//csi-vol-"+name+" (trash)") {
			t.Errorf("the image of %s is no longer in the trash: %v", name, got)
		}
	}
}

// An image of ceph-csi that the trash keeps until a certain time keeps nothing from being deleted.
func TestImageThatTheTrashKeeps(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	l := r.fakeLayout(t, "volumes", "")
	l.makeVolume(t)
	l.clone(t, familyUUID(1), "request-1", volumeUUID)
	l.deleteVolume(t, familyUUID(1))
	r.server.Inject(fakeceph.Fault{Call: "Pool.RemoveFromTrash", IsLast: true, Errno: unix.EPERM})
	check(t, r.Delete(t.Context(), l.volumeHandle()))
	for _, object := range r.server.Contents() {
		if strings.Contains(object, removalPrefix) {
			t.Errorf("%s was left", object)
		}
	}
}
