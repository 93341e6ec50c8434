package rbd

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/rbd/internal/fakeceph"
	"github.com/growvol/growvol/pkg/rbd/internal/metadata"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// This file tests what Kubernetes sees of snapshots, copies and deletions.

func TestDeleteIsRefusedWhileANodeHasTheImage(t *testing.T) {
	t.Parallel()
	for _, hasSnapshot := range []bool{false, true} {
		r := newRig(t)
		v := r.create(t, request("pvc-1"))
		if hasSnapshot {
			r.snapshot(t, "s", v.ID)
		}
		m := r.server.Map("volumes", "", "csi-vol-pvc-1", fakeceph.MapOptions{})
		before := r.server.Contents()
		volumetest.WantKind(t, r.Delete(t.Context(), v.ID), volume.KindPrecondition, m.Address)
		if got := r.server.Contents(); !slices.Equal(got, before) {
			t.Errorf("a refused deletion has changed %v to %v", before, got)
		}
		m.Unmap()
		check(t, r.Delete(t.Context(), v.ID))
	}
}

// A node that reads only is no watcher, nor is one that is cut off.
func TestDeleteIsRefusedWhileTheImageIsAttached(t *testing.T) {
	for _, hasSnapshot := range []bool{false, true} {
		r := newRig(t)
		r.withNodes(t)
		v := r.create(t, request("pvc-1"))
		if hasSnapshot {
			r.snapshot(t, "s", v.ID)
		}
		req := attachRequest(v.ID, "n1")
		req.Access = volume.Access{Mode: volume.AccessMultiNodeReaderOnly}
		_, err := r.Attach(t.Context(), req)
		check(t, err)
		before := r.server.Contents()
		volumetest.WantKind(t, r.Delete(t.Context(), v.ID), volume.KindPrecondition, "n1", "growvol.io/attached/n1")
		if got := r.server.Contents(); !slices.Equal(got, before) {
			t.Errorf("a refused deletion has changed %v to %v", before, got)
		}
		check(t, r.Detach(t.Context(), v.ID, "n1"))
		check(t, r.Delete(t.Context(), v.ID))
	}
}

func TestCopyIsNotMarkedByARefusedDeletion(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	v := r.create(t, request("pvc-1"))
	clone := r.mustCopy(t, copyRequest("pvc-2", volume.Source{VolumeID: v.ID}))
	m := r.server.Map("volumes", "", "csi-vol-pvc-2", fakeceph.MapOptions{})
	before := r.server.Contents()
	volumetest.WantKind(t, r.Delete(t.Context(), clone.ID), volume.KindPrecondition, m.Address)
	if got := r.server.Contents(); !slices.Equal(got, before) {
		t.Errorf("a refused deletion has changed %v to %v", before, got)
	}
}

func TestTombstoneIsNoVolume(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	v := r.create(t, request("pvc-1"))
	s := r.snapshot(t, "s", v.ID)
	check(t, r.Delete(t.Context(), v.ID))
	check(t, r.Delete(t.Context(), v.ID))
	_, err := r.Get(t.Context(), v.ID)
	volumetest.WantKind(t, err, volume.KindNotFound)
	tombstone := "a/volumes/csi-vol-pvc-1.growvol-deleted.1051d00001"
	_, err = r.Get(t.Context(), tombstone)
	volumetest.WantKind(t, err, volume.KindNotFound)
	check(t, r.Delete(t.Context(), tombstone))
	volumes, _, err := r.ListVolumes(t.Context(), volume.Page{})
	if err != nil || len(volumes) != 0 {
		t.Errorf("listed %+v, %v", volumes, err)
	}
	if read, err := r.GetSnapshot(t.Context(), s.ID); err != nil || read != s {
		t.Errorf("got %+v, %v, want %+v", read, err, s)
	}
	// A new volume of the name has snapshots and a tombstone of its own.
	again := r.create(t, request("pvc-1"))
	if again.ID != v.ID {
		t.Errorf("got the handle %s, want %s", again.ID, v.ID)
	}
	second := r.snapshot(t, "t", again.ID)
	check(t, r.Delete(t.Context(), again.ID))
	restored := r.mustCopy(t, copyRequest("pvc-2", volume.Source{SnapshotID: s.ID}))
	check(t, r.Delete(t.Context(), restored.ID))
	check(t, r.DeleteSnapshot(t.Context(), second.ID))
	check(t, r.DeleteSnapshot(t.Context(), s.ID))
	if left := r.server.Contents(); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// The content of copies is that of the time of the snapshot.
func TestCopiesHaveTheContentOfTheirSource(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	v := r.create(t, request("pvc-1"))
	r.server.Write("volumes", "", "csi-vol-pvc-1", 0, 4, 1)
	s := r.snapshot(t, "s", v.ID)
	r.server.Write("volumes", "", "csi-vol-pvc-1", 2, 4, 2)
	r.mustCopy(t, copyRequest("pvc-2", volume.Source{SnapshotID: s.ID}))
	r.mustCopy(t, copyRequest("pvc-3", volume.Source{VolumeID: v.ID}, "pool", "other"))
	r.server.Write("volumes", "", "csi-vol-pvc-1", 0, 8, 3)
	for image, want := range map[string]map[uint64]uint64{
		"volumes/csi-vol-pvc-2": {0: 1, 1: 1, 2: 1, 3: 1},
		"other/csi-vol-pvc-3":   {0: 1, 1: 1, 2: 2, 3: 2, 4: 2, 5: 2},
	} {
		pool, name, _ := strings.Cut(image, "/")
		if got := r.server.Content(pool, "", name); !maps.Equal(got, want) {
			t.Errorf("%s has %v, want %v", image, got, want)
		}
	}
}

func TestSnapshotNameBelongsToOneVolume(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	first, second := r.create(t, request("pvc-1")), r.create(t, request("pvc-2"))
	s := r.snapshot(t, "s", first.ID)
	if again := r.snapshot(t, "s", first.ID); again != s {
		t.Errorf("got %+v, want %+v", again, s)
	}
	_, err := r.CreateSnapshot(t.Context(), volume.SnapshotRequest{Name: "s", VolumeID: second.ID})
	volumetest.WantKind(t, err, volume.KindAlreadyExists, first.ID)
	check(t, r.DeleteSnapshot(t.Context(), s.ID))
	if again := r.snapshot(t, "s", second.ID); again.VolumeID != second.ID || again.Size != volume.GiB {
		t.Errorf("got %+v", again)
	}
}

func TestNameOfADeadCallIsTakenOver(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	first, second := r.create(t, request("pvc-1")), r.create(t, request("pvc-2"))
	r.server.Inject(fakeceph.Fault{Call: "Image.CreateSnapshot", Errno: unix.ETIMEDOUT, IsLast: true})
	_, err := r.CreateSnapshot(t.Context(), volume.SnapshotRequest{Name: "s", VolumeID: first.ID})
	volumetest.WantKind(t, err, volume.KindUnavailable)
	if s := r.snapshot(t, "s", second.ID); s.VolumeID != second.ID {
		t.Errorf("got %+v", s)
	}
}

func TestSnapshotsOfOthersAreNotDeleted(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	v := r.create(t, request("pvc-1"))
	im, err := r.testPool(t, "volumes", "").Open("csi-vol-pvc-1", false)
	check(t, err)
	check(t, im.CreateSnapshot("monday"))
	check(t, im.Close())
	const static = "a/volumes/csi-vol-pvc-1@monday"
	for _, id := range []string{static, firstSnapshot} {
		s, err := r.GetSnapshot(t.Context(), id)
		if err != nil || s.Name != "monday" || s.VolumeID != v.ID || s.ID != id || !s.Ready {
			t.Errorf("got %+v, %v", s, err)
		}
		err = r.DeleteSnapshot(t.Context(), id)
		volumetest.WantKind(t, err, volume.KindPrecondition, "rbd snap rm volumes/csi-vol-pvc-1@monday")
	}
	restored := r.mustCopy(t, copyRequest("pvc-2", volume.Source{SnapshotID: static}))
	check(t, r.Delete(t.Context(), restored.ID))
	if all, _, err := r.ListSnapshots(t.Context(), volume.SnapshotFilter{}, volume.Page{}); err != nil || len(all) != 0 {
		t.Errorf("listed %+v, %v", all, err)
	}
	// The volume of a static snapshot is not the image.
	volumetest.WantKind(t, r.Delete(t.Context(), static), volume.KindPrecondition, "Retain")
	want := []string{"volumes//csi-vol-pvc-1", "volumes//csi-vol-pvc-1@monday"}
	if got := r.server.Contents(); !slices.Equal(got, want) {
		t.Errorf("the cluster has %v, want %v", got, want)
	}
}

func TestListSnapshotsIsPaged(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var want []string
	for i := range 3 {
		v := r.create(t, request(fmt.Sprintf("pvc-%d", i)))
		for j := range 3 {
			want = append(want, r.snapshot(t, fmt.Sprintf("s-%d-%d", i, j), v.ID).ID)
		}
	}
	check(t, r.Delete(t.Context(), "a/volumes/csi-vol-pvc-2"))
	for size := 1; size <= 10; size++ {
		var got []string
		for page := (volume.Page{Max: size}); ; {
			all, next, err := r.ListSnapshots(t.Context(), volume.SnapshotFilter{}, page)
			check(t, err)
			for _, s := range all {
				got = append(got, s.ID)
			}
			if len(all) > size {
				t.Errorf("a page of at most %d has %d snapshots", size, len(all))
			}
			if page.Token = next; next == "" {
				break
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("pages of %d: got %v, want %v", size, got, want)
		}
	}
	for filter, count := range map[volume.SnapshotFilter]int{
		{VolumeID: "a/volumes/csi-vol-pvc-1"}:                      3,
		{VolumeID: "a/volumes/csi-vol-pvc-2"}:                      3, // deleted
		{VolumeID: "a/volumes/other"}:                              0,
		{VolumeID: "no handle"}:                                    0,
		{SnapshotID: want[4]}:                                      1,
		{SnapshotID: want[4], VolumeID: "a/volumes/csi-vol-pvc-0"}: 0,
		{SnapshotID: "a/volumes/id:1051d00001@99"}:                 0,
	} {
		all, next, err := r.ListSnapshots(t.Context(), filter, volume.Page{})
		if err != nil || len(all) != count || next != "" {
			t.Errorf("%+v: got %+v, %q, %v, want %d", filter, all, next, err, count)
		}
	}
	_, _, err := r.ListSnapshots(t.Context(), volume.SnapshotFilter{}, volume.Page{Token: "x"})
	volumetest.WantKind(t, err, volume.KindStale)
}

func TestSourceMustBeInTheSameCluster(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, source := range []volume.Source{{SnapshotID: "b/volumes/id:10@4"}, {VolumeID: "b/volumes/x"}} {
		_, err := r.createCopy(t, copyRequest("pvc-1", source))
		volumetest.WantKind(t, err, volume.KindInvalid, "inside a cluster")
	}
	for _, source := range []volume.Source{{SnapshotID: "a/volumes/id:10@4"}, {VolumeID: "a/volumes/x"}} {
		_, err := r.createCopy(t, copyRequest("pvc-1", source))
		volumetest.WantKind(t, err, volume.KindNotFound)
	}
	if left := r.server.Contents(); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestImageOfAnotherOriginIsNotTaken(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	v := r.create(t, request("pvc-1"))
	s, other := r.snapshot(t, "s", v.ID), r.snapshot(t, "t", v.ID)
	pool := r.testPool(t, "volumes", "")
	for _, name := range []string{"csi-vol-pvc-2", "csi-vol-pvc-4", "csi-vol-pvc-5"} {
		check(t, pool.Create(name, 1<<30, ceph.ImageOptions{}))
	}
	check(t, pool.Clone(pool, "csi-vol-pvc-1", "growvol.snapshot.t", "csi-vol-pvc-3", ceph.ImageOptions{}))
	r.server.Write("volumes", "", "csi-vol-pvc-2", 1<<13, 1, 1) // behind the first 64 MiB
	im, err := pool.Open("csi-vol-pvc-4", false)
	check(t, err)
	check(t, im.CreateSnapshot("monday"))
	check(t, im.Close())
	id, err := pool.ImageID("csi-vol-pvc-5")
	check(t, err)
	check(t, pool.SetMetadata(id, "owner", "another driver"))
	before := r.server.Contents()
	for _, name := range []string{"pvc-2", "pvc-3", "pvc-4", "pvc-5"} {
		_, err := r.createCopy(t, copyRequest(name, volume.Source{SnapshotID: s.ID}))
		volumetest.WantKind(t, err, volume.KindAlreadyExists)
	}
	if got := r.server.Contents(); !slices.Equal(got, before) {
		t.Errorf("refused copies have changed %v to %v", before, got)
	}
	v3 := r.mustCopy(t, copyRequest("pvc-3", volume.Source{SnapshotID: other.ID}))
	if v3.Source.SnapshotID != other.ID {
		t.Errorf("got %+v", v3)
	}
	_, err = r.createCopy(t, copyRequest("pvc-3", volume.Source{SnapshotID: s.ID}))
	volumetest.WantKind(t, err, volume.KindAlreadyExists, "another source")
}

// A copy has the data of its source: encrypted, or not.
func TestCopyWithAnotherEncryptionIsRefused(t *testing.T) {
	t.Parallel()
	for _, isEncrypted := range []bool{false, true} {
		r := newRig(t)
		req := request("pvc-1")
		req.Encrypted = isEncrypted
		v := r.create(t, req)
		s := r.snapshot(t, "s", v.ID)
		for i, source := range []volume.Source{
			{SnapshotID: s.ID}, {VolumeID: v.ID}, {VolumeID: v.ID + "@growvol.snapshot.s"}, {SnapshotID: s.ID},
		} {
			if i == 3 {
				check(t, r.Delete(t.Context(), v.ID)) // the tombstone has the record still
			}
			before := r.server.Contents()
			c := copyRequest("pvc-2", source)
			c.Encrypted = !isEncrypted
			_, err := r.createCopy(t, c)
			volumetest.WantKind(t, err, volume.KindInvalid, "csi-vol-pvc-1", "encrypted", "StorageClass")
			if got := r.server.Contents(); !slices.Equal(got, before) {
				t.Errorf("a refused copy has changed %v to %v", before, got)
			}
		}
		c := copyRequest("pvc-2", volume.Source{SnapshotID: s.ID})
		c.Encrypted = isEncrypted
		if copied := r.mustCopy(t, c); copied.Encrypted != isEncrypted {
			t.Errorf("got %+v, want encrypted %t", copied, isEncrypted)
		}
	}
}

// Temporary snapshots that a dead call has left go with the next copy of the volume, or with it.
func TestTemporarySnapshotsAreNotLeft(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	v := r.create(t, request("pvc-1"))
	leave := func() {
		im, err := r.testPool(t, "volumes", "").Open("csi-vol-pvc-1", false)
		check(t, err)
		check(t, im.CreateSnapshot("growvol.clone.csi-vol-dead"))
		check(t, im.Close())
	}
	leave()
	clone := r.mustCopy(t, copyRequest("pvc-2", volume.Source{VolumeID: v.ID}))
	want := []string{"volumes//csi-vol-pvc-1", "volumes//csi-vol-pvc-1@(removed)", "volumes//csi-vol-pvc-2"}
	if got := r.server.Contents(); !slices.Equal(got, want) {
		t.Errorf("the cluster has %v, want %v", got, want)
	}
	check(t, r.Delete(t.Context(), clone.ID))
	leave()
	check(t, r.Delete(t.Context(), v.ID))
	if left := r.server.Contents(); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestLimitOfSnapshots(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	v := r.create(t, request("pvc-1"))
	im, err := r.testPool(t, "volumes", "").Open("csi-vol-pvc-1", false)
	check(t, err)
	for i := range maxSnapshots {
		check(t, im.CreateSnapshot(fmt.Sprint(i)))
	}
	check(t, im.Close())
	before := len(r.server.Contents())
	_, err = r.CreateSnapshot(t.Context(), volume.SnapshotRequest{Name: "s", VolumeID: v.ID})
	volumetest.WantKind(t, err, volume.KindExhausted, "500 snapshots")
	_, err = r.createCopy(t, copyRequest("pvc-2", volume.Source{VolumeID: v.ID}))
	volumetest.WantKind(t, err, volume.KindExhausted)
	if got := len(r.server.Contents()); got != before {
		t.Errorf("the cluster has %d entries, had %d", got, before)
	}
}

func TestLimitOfParents(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	v := r.create(t, request("pvc-0"))
	for i := range maxAncestors {
		v = r.mustCopy(t, copyRequest(fmt.Sprintf("pvc-%d", i+1), volume.Source{VolumeID: v.ID}))
	}
	s := r.snapshot(t, "s", v.ID)
	for _, source := range []volume.Source{{VolumeID: v.ID}, {SnapshotID: s.ID}} {
		_, err := r.createCopy(t, copyRequest("pvc-last", source))
		volumetest.WantKind(t, err, volume.KindPrecondition, "rbd flatten volumes/csi-vol-pvc-16")
	}
	// After flattening, the record of the image still has the former depth.
	im, err := r.testPool(t, "volumes", "").Open("csi-vol-pvc-16", false)
	check(t, err)
	check(t, im.(interface{ Flatten() error }).Flatten()) //nolint:forcetypeassert,errcheck // images of fakeceph have it
	check(t, im.Close())
	last := r.mustCopy(t, copyRequest("pvc-last", volume.Source{VolumeID: v.ID}))
	all, err := r.testPool(t, "volumes", "").Metadata("1051d00012")
	check(t, err)
	record, found, err := metadata.Read("1051d00012", all)
	if err != nil || !found || record.Name != last.Name || record.Depth != 1 {
		t.Errorf("got %+v, %t, %v", record, found, err)
	}
}

// A mapping with the option exclusive forbids snapshots.
func TestSnapshotOfAnExclusivelyMappedImage(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	v := r.create(t, request("pvc-1"))
	m := r.server.Map("volumes", "", "csi-vol-pvc-1", fakeceph.MapOptions{Exclusive: true})
	_, err := r.CreateSnapshot(t.Context(), volume.SnapshotRequest{Name: "s", VolumeID: v.ID})
	volumetest.WantKind(t, err, volume.KindPrecondition, "exclusive")
	if got, want := r.server.Contents(), []string{"volumes//csi-vol-pvc-1"}; !slices.Equal(got, want) {
		t.Errorf("the cluster has %v, want %v", got, want)
	}
	m.Unmap()
	r.snapshot(t, "s", v.ID)
}

// Headers of another version of Ceph are not decoded: the images are opened instead.
func TestCopiesWithUnknownHeaders(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.server.SetFormatUnknown()
	v := r.create(t, request("pvc-1"))
	s := r.snapshot(t, "s", v.ID)
	if read, err := r.GetSnapshot(t.Context(), s.ID); err != nil || read != s {
		t.Errorf("got %+v, %v, want %+v", read, err, s)
	}
	restored := r.mustCopy(t, copyRequest("pvc-2", volume.Source{SnapshotID: s.ID}))
	clone := r.mustCopy(t, copyRequest("pvc-3", volume.Source{VolumeID: v.ID}))
	for _, id := range []string{v.ID, clone.ID, restored.ID} {
		check(t, r.Delete(t.Context(), id))
	}
	check(t, r.DeleteSnapshot(t.Context(), s.ID))
	if left := r.server.Contents(); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// A name alone makes no tombstone: an administrator has renamed the image of another id.
func TestImageWithTheNameOfAnotherTombstoneStays(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	v := r.create(t, request("pvc-1"))
	clone := r.mustCopy(t, copyRequest("pvc-2", volume.Source{VolumeID: v.ID}))
	const name = "csi-vol-pvc-1" + tombstoneMark + "ffff"
	check(t, r.testPool(t, "volumes", "").Rename("csi-vol-pvc-1", name))
	check(t, r.Delete(t.Context(), clone.ID))
	if got, want := r.server.Contents(), []string{"volumes//" + name}; !slices.Equal(got, want) {
		t.Errorf("the cluster has %v, want %v", got, want)
	}
}

// A clone that its parent does not know is removed only if it has nothing of its own: no data, and
// no metadata.
func TestHalfCloneWithContentStays(t *testing.T) {
	t.Parallel()
	for steps, name := range map[int]string{2: "without a parent", 3: "with a parent"} {
		for content, add := range map[string]func(t *testing.T, r *rig, image string){
			"data": func(_ *testing.T, r *rig, image string) {
				r.server.Write("volumes", "", image, 1<<13, 1, 7) // at 512 MiB
			},
			"metadata": func(t *testing.T, r *rig, image string) {
				t.Helper()
				pool := r.testPool(t, "volumes", "")
				id, err := pool.ImageID(image)
				check(t, err)
				check(t, pool.SetMetadata(id, "owner", "team"))
			},
			"snapshots": func(t *testing.T, r *rig, image string) {
				t.Helper()
				im, err := r.testPool(t, "volumes", "").Open(image, false)
				check(t, err)
				check(t, im.CreateSnapshot("theirs"))
				check(t, im.Close())
			},
		} {
			t.Run(name+"/"+content, func(t *testing.T) {
				t.Parallel()
				r := newRig(t)
				source := r.create(t, request("source"))
				req := copyRequest("copy", volume.Source{VolumeID: source.ID})
				r.server.Inject(fakeceph.Fault{Call: "Pool.Clone", Steps: steps, Errno: unix.ETIMEDOUT, IsLast: true})
				if _, err := r.createCopy(t, req); err == nil {
					t.Fatal("the clone was not interrupted")
				}
				add(t, r, "csi-vol-copy")
				before := r.server.Contents()
				_, err := r.createCopy(t, req)
				volumetest.WantKind(t, err, volume.KindAlreadyExists, "csi-vol-copy")
				for _, object := range before {
					if strings.Contains(object, "csi-vol-copy") && !slices.Contains(r.server.Contents(), object) {
						t.Errorf("%s is gone", object)
					}
				}
			})
		}
	}
}

// Without content of its own it is made again.
func TestHalfCloneIsMadeAgain(t *testing.T) {
	t.Parallel()
	for _, steps := range []int{2, 3} {
		r := newRig(t)
		source := r.create(t, request("source"))
		req := copyRequest("copy", volume.Source{VolumeID: source.ID})
		r.server.Write("volumes", "", "csi-vol-source", 0, 4, 7)
		r.server.Inject(fakeceph.Fault{Call: "Pool.Clone", Steps: steps, Errno: unix.ETIMEDOUT, IsLast: true})
		if _, err := r.createCopy(t, req); err == nil {
			t.Fatal("the clone was not interrupted")
		}
		r.mustCopy(t, req)
	}
}

// Another clone of the same snapshot does not make a half clone a whole one: the snapshot must know
// each of its clones, or it goes with the last that it knows.
func TestHalfCloneBesideAnotherClone(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	source := r.create(t, request("source"))
	r.server.Write("volumes", "", "csi-vol-source", 0, 4, 7)
	s := r.snapshot(t, "s", source.ID)
	r.mustCopy(t, copyRequest("first", volume.Source{SnapshotID: s.ID}))
	req := copyRequest("second", volume.Source{SnapshotID: s.ID})
	r.server.Inject(fakeceph.Fault{Call: "Pool.Clone", Steps: 3, Errno: unix.ETIMEDOUT, IsLast: true})
	if _, err := r.createCopy(t, req); err == nil {
		t.Fatal("the clone was not interrupted")
	}
	r.mustCopy(t, req)
	im, err := r.testPool(t, "volumes", "").Open("csi-vol-source", true)
	check(t, err)
	children, err := im.Children()
	check(t, err)
	check(t, im.Close())
	if len(children) != 2 {
		t.Errorf("the snapshot knows the clones %+v, want both", children)
	}
}

// A half clone that a client has open, as a controller that is still making it, is not removed.
func TestHalfCloneInUseStays(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	source := r.create(t, request("source"))
	req := copyRequest("copy", volume.Source{VolumeID: source.ID})
	r.server.Inject(fakeceph.Fault{Call: "Pool.Clone", Steps: 2, Errno: unix.ETIMEDOUT, IsLast: true})
	if _, err := r.createCopy(t, req); err == nil {
		t.Fatal("the clone was not interrupted")
	}
	m := r.server.Map("volumes", "", "csi-vol-copy", fakeceph.MapOptions{})
	_, err := r.createCopy(t, req)
	volumetest.WantKind(t, err, volume.KindUnavailable, "in use by "+m.Address)
	m.Unmap()
	r.mustCopy(t, req)
}
