package rbd

import (
	"maps"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/rbd/internal/fakeceph"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

func TestExpandGrowsAMappedImageWithOneOpen(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	v := r.create(t, request("pvc-1"))
	mapping := r.server.Map("volumes", "", "csi-vol-pvc-1", fakeceph.MapOptions{})
	r.server.ResetCalls()
	got, err := r.Expand(t.Context(), v.ID, 3*volume.GiB)
	if err != nil || got.ID != v.ID || got.Size != 3*volume.GiB {
		t.Errorf("got %+v, %v", got, err)
	}
	want := map[string]int{
		"Cluster.Pool": 1, "Cluster.PoolUsage": 1, "Pool.Open": 1, "Image.Info": 1, "Image.Grow": 1, "Image.Size": 1,
		"Image.Close": 1,
	}
	if calls := r.server.Calls(); !maps.Equal(calls, want) {
		t.Errorf("got the calls %v, want %v", calls, want)
	}
	if mapping.Size() != 3<<30 || mapping.IsFenced() {
		t.Errorf("the node sees %d bytes, fenced %t", mapping.Size(), mapping.IsFenced())
	}
}

func TestExpandToASmallerSizeWritesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	v := r.create(t, request("pvc-1"))
	r.server.SetFull("volumes", "full")
	for _, size := range []volume.Size{volume.MiB, volume.GiB} {
		if got, err := r.Expand(t.Context(), v.ID, size); err != nil || got.Size != volume.GiB {
			t.Errorf("%s: got %+v, %v", size, got, err)
		}
	}
	if got := r.server.Calls()["Image.Grow"]; got != 0 {
		t.Errorf("the image was resized %d times", got)
	}
}

func TestExpandStaticVolume(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.server.CreateNamespace("other", "tenant")
	check(t, r.testPool(t, "other", "tenant").Create("by hand", 5<<20+1, ceph.ImageOptions{}))
	const id = "a/other/tenant/by hand"
	if got, err := r.Expand(t.Context(), id, 8*volume.MiB); err != nil || got.Size != 8*volume.MiB {
		t.Errorf("got %+v, %v", got, err)
	}
	r.wantSize(t, id, 8*volume.MiB)
	if conditions, err := r.Health(t.Context(), id); err != nil || len(conditions) != 0 {
		t.Errorf("got %v, %v", conditions, err)
	}
}

func TestExpandIsTrueToWhatWasReadBack(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	v := r.create(t, request("pvc-1"))
	r.server.Inject(fakeceph.Fault{
		Call: "Image.Size", Do: func() { r.server.Resize("volumes", "", "csi-vol-pvc-1", 1<<30) },
	})
	_, err := r.Expand(t.Context(), v.ID, 2*volume.GiB)
	volumetest.WantKind(t, err, volume.KindInternal, "from 1 GiB to 2 GiB", "its size is 1 GiB")
	r.server.ClearFaults()
	r.server.Inject(fakeceph.Fault{
		Call: "Image.Size", Do: func() { r.server.Resize("volumes", "", "csi-vol-pvc-1", 5<<30) },
	})
	if got, err := r.Expand(t.Context(), v.ID, 2*volume.GiB); err != nil || got.Size != 5*volume.GiB {
		t.Errorf("got %+v, %v, want the size that was read", got, err)
	}
}

func TestExpandNamesTheReasonOfARefusal(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		prepare func(*rig)
		kind    volume.Kind
		words   string
	}{
		"full": {func(r *rig) { r.server.SetFull("volumes", "full_quota") }, volume.KindOutOfRange, "full_quota"},
		"quota": {
			func(r *rig) { r.server.SetUsage("volumes", 0, 1<<40, 3<<29) },
			volume.KindOutOfRange, "2 GiB|1536 MiB|set-quota",
		},
		"full meanwhile": {
			func(r *rig) {
				r.server.Inject(fakeceph.Fault{Call: "Image.Grow", Do: func() { r.server.SetFull("volumes", "full_quota") }})
			},
			volume.KindOutOfRange, "full_quota",
		},
		"paused": {func(r *rig) { r.server.SetPaused(true) }, volume.KindUnavailable, "ceph -s"},
		"impossible size": {
			func(r *rig) { r.server.Inject(fakeceph.Fault{Call: "Image.Grow", Errno: unix.EINVAL}) },
			volume.KindOutOfRange, "from 1 GiB to 2 GiB|smaller",
		},
		"object map": {
			func(r *rig) {
				r.server.SetObjectMapInvalid("volumes", "", "csi-vol-pvc-1", true)
				r.server.Inject(fakeceph.Fault{Call: "Image.Grow", Errno: unix.EINVAL})
			},
			volume.KindPrecondition, "rbd object-map rebuild volumes/csi-vol-pvc-1",
		},
		"no right": {
			func(r *rig) { r.server.Inject(fakeceph.Fault{Call: "Image.Grow", Errno: unix.EPERM}) },
			volume.KindDenied, "profile rbd|client.csi",
		},
		"no space": {
			func(r *rig) { r.server.Inject(fakeceph.Fault{Call: "Image.Grow", Errno: unix.ENOSPC}) },
			volume.KindOutOfRange, "ceph df",
		},
		"fenced twice": {
			func(r *rig) { r.server.Inject(fakeceph.Fault{Call: "Image.Grow", Errno: unix.ESHUTDOWN}) },
			volume.KindUnavailable, "connects again",
		},
		"not understood": {
			func(r *rig) { r.server.Inject(fakeceph.Fault{Call: "Image.Grow", Errno: unix.ENOEXEC}) },
			volume.KindInternal, "from 1 GiB to 2 GiB",
		},
		"image removed": {
			func(r *rig) { r.server.MoveToTrash("volumes", "", "csi-vol-pvc-1") },
			volume.KindNotFound, "no image csi-vol-pvc-1",
		},
		"pool removed":    {func(r *rig) { r.server.RemovePool("volumes") }, volume.KindUnavailable, "no pool volumes"},
		"cluster removed": {func(r *rig) { delete(r.config, "a") }, volume.KindUnavailable, `"a"`},
	} {
		r := newRig(t)
		v := r.create(t, request("pvc-1"))
		test.prepare(r)
		_, err := r.Expand(t.Context(), v.ID, 2*volume.GiB)
		volumetest.WantKind(t, err, test.kind, strings.Split(test.words, "|")...)
		if t.Failed() {
			t.Fatalf("%s failed", name)
		}
	}
}

// A node that has mapped the image with the option exclusive keeps its lock. Only an image with an
// object map needs the lock to grow.
func TestExpandOfAnExclusivelyMappedImage(t *testing.T) {
	t.Parallel()
	for features, needsLock := range map[string]bool{
		"layering,exclusive-lock":            false,
		"layering,exclusive-lock,object-map": true,
	} {
		r := newRig(t)
		v := r.create(t, request("pvc-1", "imageFeatures", features))
		r.server.Map("volumes", "", "csi-vol-pvc-1", fakeceph.MapOptions{Exclusive: true})
		got, err := r.Expand(t.Context(), v.ID, 2*volume.GiB)
		if needsLock {
			volumetest.WantKind(t, err, volume.KindPrecondition, "option exclusive", "remove exclusive from mapOptions")
		} else if err != nil || got.Size != 2*volume.GiB {
			t.Errorf("%s: got %s, %v, want 2 GiB", features, got.Size, err)
		}
	}
}

func TestExpandOfWhatIsNoVolume(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, id := range []string{"", "x", "a/volumes/none", "a/volumes/tenant/none"} {
		_, err := r.Expand(t.Context(), id, volume.GiB)
		volumetest.WantKind(t, err, volume.KindNotFound)
	}
	v := r.create(t, request("pvc-1"))
	im, err := r.testPool(t, "volumes", "").Open("csi-vol-pvc-1", false)
	check(t, err)
	check(t, im.CreateSnapshot("monday"))
	check(t, im.Grow(2<<30))
	check(t, im.Close())
	_, err = r.Expand(t.Context(), v.ID+"@monday", 2*volume.GiB)
	volumetest.WantKind(t, err, volume.KindPrecondition, "snapshot")
	r.wantSize(t, v.ID+"@monday", volume.GiB)
	_, err = r.Get(t.Context(), v.ID+"@tuesday")
	volumetest.WantKind(t, err, volume.KindNotFound, "tuesday")
}

// A call of librbd cannot be interrupted: the RPC answers in time, the retry joins.
func TestExpandAnswersInTimeAndTheRetryJoins(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		v := r.create(t, request("pvc-1"))
		hang, entered := make(chan struct{}), make(chan struct{}, 1)
		r.server.Inject(fakeceph.Fault{Call: "Image.Grow", IsLast: true, Wait: hang, Entered: entered})
		began := time.Now()
		_, err := r.Expand(shortContext(t), v.ID, 2*volume.GiB)
		volumetest.WantKind(t, err, volume.KindDeadline, "to 2 GiB", "next retry")
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("the answer took %s", took)
		}
		<-entered
		if left := r.tracker.List(); len(left) != 1 || left[0].ID != v.ID {
			t.Errorf("got the detached tasks %v", left)
		}
		_, err = r.Expand(shortContext(t), v.ID, 2*volume.GiB)
		volumetest.WantKind(t, err, volume.KindInProgress)
		// Reading does not wait for it.
		r.wantSize(t, v.ID, volume.GiB)
		done := make(chan error)
		go func() {
			_, err := r.Expand(t.Context(), v.ID, 2*volume.GiB)
			done <- err
		}()
		close(hang)
		if err := <-done; err != nil {
			t.Error(err)
		}
		if got := r.server.Calls()["Image.Grow"]; got != 1 {
			t.Errorf("the image was resized %d times, want once", got)
		}
		r.wantSize(t, v.ID, 2*volume.GiB)
	})
}

func TestManyExpansionsAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var ids []string
	for _, name := range strings.Fields(strings.Repeat("x ", 100)) {
		v := r.create(t, request(name+strings.Repeat("y", len(ids))))
		ids = append(ids, v.ID)
	}
	var all sync.WaitGroup
	for _, id := range append(ids, ids...) {
		all.Go(func() {
			if v, err := r.Expand(t.Context(), id, 2*volume.GiB); err != nil || v.Size != 2*volume.GiB {
				t.Errorf("%s: got %s, %v", id, v.Size, err)
			}
		})
	}
	all.Wait()
}

// The client was fenced, for example because it did not answer for a while.
func TestAFencedConnectionIsReplaced(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	v := r.create(t, request("pvc-1"))
	r.server.Inject(fakeceph.Fault{Call: "Image.Grow", IsLast: true, IsFencing: true})
	if got, err := r.Expand(t.Context(), v.ID, 2*volume.GiB); err != nil || got.Size != 2*volume.GiB {
		t.Errorf("got %+v, %v", got, err)
	}
	if got := r.server.Calls()["Connect"]; got != 2 {
		t.Errorf("connected %d times, want 2", got)
	}
	r.wantSize(t, v.ID, 2*volume.GiB)
}

func TestExpandWithASecretOfTheClass(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	v := r.create(t, request("pvc-1"))
	config := r.config["a"]
	config.Key = ""
	r.config["a"] = config
	_, err := r.Expand(t.Context(), v.ID, 2*volume.GiB)
	volumetest.WantKind(t, err, volume.KindInternal, "userKey")
	ctx := volume.WithSecrets(t.Context(), map[string]string{"userID": "tenant", "userKey": "d3Jvbmc="})
	r.server.SetKey(testKey)
	_, err = r.Expand(ctx, v.ID, 2*volume.GiB)
	volumetest.WantKind(t, err, volume.KindUnauthenticated, "client.tenant")
	ctx = volume.WithSecrets(t.Context(), map[string]string{"userID": "tenant", "userKey": testKey})
	if _, err = r.Expand(ctx, v.ID, 2*volume.GiB); err != nil {
		t.Error(err)
	}
}
