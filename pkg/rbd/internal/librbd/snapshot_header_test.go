//go:build ceph

package librbd

import (
	"bytes"
	"fmt"
	"sync"
	"testing"

	"github.com/ceph/go-ceph/rados"
	"github.com/ceph/go-ceph/rbd"
	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
)

// This file tests snapshots that are taken and removed without librbd.

// withImage calls use with the image as librbd has it open, and closes it.
func withImage(t *testing.T, p *pool, name string, use func(*rbd.Image)) {
	t.Helper()
	opened, err := rbd.OpenImage(p.io, name, rbd.NoSnapshot)
	check(t, err)
	use(opened)
	check(t, opened.Close())
}

func writeAt(t *testing.T, p *pool, name, content string, offset int64) {
	t.Helper()
	withImage(t, p, name, func(opened *rbd.Image) {
		_, err := opened.WriteAt([]byte(content), offset)
		check(t, err)
		check(t, opened.Flush())
	})
}

// wantContent fails the test unless the image begins with the content.
func wantContent(t *testing.T, p *pool, name, want string) {
	t.Helper()
	withImage(t, p, name, func(opened *rbd.Image) {
		got := make([]byte, len(want))
		_, err := opened.ReadAt(got, 0)
		check(t, err)
		if !bytes.Equal(got, []byte(want)) {
			t.Errorf("image %s: got %q, want %q", name, got, want)
		}
	})
}

// wantSnapshots fails the test unless a new handle of the image lists so many snapshots, and so
// many of them removed.
func wantSnapshots(t *testing.T, p *pool, name string, all, removed int) {
	t.Helper()
	reader, err := p.Open(name, true)
	check(t, err)
	snapshots, err := reader.Snapshots()
	check(t, err)
	check(t, reader.Close())
	count := 0
	for _, s := range snapshots {
		if s.IsRemoved {
			count++
		}
	}
	if len(snapshots) != all || count != removed {
		t.Errorf("image %s: got the snapshots %+v, want %d, of them %d removed", name, snapshots, all, removed)
	}
}

// ofUnused makes an image and opens it, such that librbd has not opened it.
func ofUnused(t *testing.T, p *pool, name string) *image {
	t.Helper()
	return mustCreate(t, p, name, 1<<30, layering(), false).(*image) //nolint:forcetypeassert,errcheck // of this package
}

// A snapshot of an image that nobody uses has its content, without the image being opened; removed,
// it stays for its clone, and goes with it.
func TestSnapshotOfUnusedImage(t *testing.T) {
	p, prefix := testPool(t, connect(t, rigConfig(t)))
	name, clone := prefix+"a", prefix+"clone"
	i := ofUnused(t, p, name)
	writeAt(t, p, name, "before", 0)
	check(t, i.CreateSnapshot("s"))
	wantErrno(t, i.CreateSnapshot("s"), unix.EEXIST)
	wantErrno(t, i.RemoveSnapshot("absent"), unix.ENOENT)
	writeAt(t, p, name, "after ", 0)
	check(t, p.Clone(p, name, "s", clone, layering()))
	check(t, i.RemoveSnapshot("s"))
	if i.isOpen() {
		t.Error("librbd has opened the image, want its header changed directly")
	}
	wantSnapshots(t, p, name, 1, 1)
	wantErrno(t, i.RemoveSnapshot("s"), unix.ENOENT)
	wantContent(t, p, name, "after ")
	wantContent(t, p, clone, "before")
	check(t, p.Remove(clone))
	wantSnapshots(t, p, name, 0, 0)
}

// A limit of snapshots holds, and the id of a refused snapshot is given back.
func TestSnapshotLimit(t *testing.T) {
	p, prefix := testPool(t, connect(t, rigConfig(t)))
	i := ofUnused(t, p, prefix+"a")
	limit := []byte{1, 0, 0, 0, 0, 0, 0, 0}
	check(t, p.change(headerObject(i.id), "snapshot_set_limit", limit))
	check(t, i.CreateSnapshot("s1"))
	wantErrno(t, i.CreateSnapshot("s2"), unix.EDQUOT)
	wantSnapshots(t, p, prefix+"a", 1, 0)
}

// watch registers a client that has opened the image. It answers notifications and returns them, or
// stays silent.
func watch(t *testing.T, i *image, isSilent bool) <-chan rados.NotifyEvent {
	t.Helper()
	other, err := connect(t, rigConfig(t)).Pool("volumes", "")
	check(t, err)
	watcher, err := other.(*pool).io.Watch(headerObject(i.id)) //nolint:forcetypeassert,errcheck // of this package
	check(t, err)
	var group sync.WaitGroup
	t.Cleanup(func() { check(t, watcher.Delete()); group.Wait() })
	seen := make(chan rados.NotifyEvent, 100)
	group.Go(func() {
		for event := range watcher.Events() {
			seen <- event
			if isSilent {
				continue
			}
			if err := event.Ack(nil); err != nil {
				t.Error(err)
			}
		}
	})
	return seen
}

// If a client has the image open, librbd takes the snapshot: it asks that client to become quiet
// first. Notifications of librbd have content.
func TestSnapshotOfUsedImage(t *testing.T) {
	p, prefix := testPool(t, connect(t, rigConfig(t)))
	i := ofUnused(t, p, prefix+"a")
	seen := watch(t, i, false)
	check(t, i.CreateSnapshot("s"))
	requests := 0
	for len(seen) > 0 {
		if event := <-seen; len(event.Data) > 0 {
			requests++
		}
	}
	if requests == 0 || !i.isOpen() {
		t.Errorf("the client got %d notifications of librbd, want some before the snapshot is taken", requests)
	}
	wantSnapshots(t, p, prefix+"a", 1, 0)
}

// A client that takes the lock between the check and the snapshot keeps the snapshot from being
// taken.
func TestSnapshotIsGuardedByVersion(t *testing.T) {
	p, prefix := testPool(t, connect(t, rigConfig(t)))
	i := ofUnused(t, p, prefix+"a")
	io, err := i.openIO()
	check(t, err)
	defer io.Destroy()
	h, isUnused, err := i.checkUnused(io)
	if err != nil || !isUnused {
		t.Fatalf("got unused %t (%v), want true", isUnused, err)
	}
	writeAt(t, p, prefix+"a", "x", 0) // takes and gives back the lock
	if err := i.addSnapshotTo(io, h, "s"); !isOutdated(err) {
		t.Errorf("got %v, want that the header has changed", err)
	}
	wantSnapshots(t, p, prefix+"a", 0, 0)
	// A client that has died has the lock, and is told nothing.
	if _, err := io.LockExclusive(headerObject(i.id), lockName, "auto 1", "", 0, nil); err != nil {
		t.Fatal(err)
	}
	if _, isUnused, err := i.checkUnused(io); isUnused || err != nil {
		t.Errorf("got unused %t (%v) of an image whose lock is held, want false", isUnused, err)
	}
	_, err = io.Unlock(headerObject(i.id), lockName, "auto 1")
	check(t, err)
}

// A client that opens the image at the moment of the snapshot and does not answer may still write:
// the snapshot does not count.
func TestSnapshotIsRemovedIfNewClientIsSilent(t *testing.T) {
	p, prefix := testPool(t, connect(t, rigConfig(t)))
	i := ofUnused(t, p, prefix+"a")
	io, err := i.openIO()
	check(t, err)
	defer io.Destroy()
	h, isUnused, err := i.checkUnused(io)
	if err != nil || !isUnused {
		t.Fatalf("got unused %t (%v), want true", isUnused, err)
	}
	watch(t, i, true)
	check(t, i.addSnapshotTo(io, h, "s"))
	wantErrno(t, i.announceSnapshot(io, "s"), unix.ETIMEDOUT)
	wantSnapshots(t, p, prefix+"a", 0, 0)
}

// Snapshots that several clients take at once all exist, each with an id of its own.
func TestConcurrentSnapshots(t *testing.T) {
	p, prefix := testPool(t, connect(t, rigConfig(t)))
	check(t, p.Create(prefix+"a", 1<<30, layering()))
	const clients, each = 4, 5
	var group sync.WaitGroup
	for client := range clients {
		other, err := connect(t, rigConfig(t)).Pool("volumes", "")
		check(t, err)
		group.Go(func() {
			for n := range each {
				opened, err := other.Open(prefix+"a", false)
				if err == nil {
					err = opened.CreateSnapshot(fmt.Sprintf("s-%d-%d", client, n))
				}
				if err != nil {
					t.Error(err)
					return
				}
				if err := opened.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	wantSnapshots(t, p, prefix+"a", clients*each, 0)
}

// Images with an object map are changed by librbd only.
func TestSnapshotWithObjectMap(t *testing.T) {
	p, prefix := testPool(t, connect(t, rigConfig(t)))
	options := ceph.ImageOptions{Features: []string{"layering", "exclusive-lock", "object-map", "fast-diff"}}
	i := mustCreate(t, p, prefix+"a", 1<<30, options, false).(*image) //nolint:forcetypeassert,errcheck // of this package
	check(t, i.CreateSnapshot("s"))
	if !i.isOpen() {
		t.Error("the image was not opened, want librbd to keep the object map of the snapshot")
	}
	check(t, i.RemoveSnapshot("s"))
}

// The id of a snapshot comes from the pool that has the data. An id of the image's own pool can be
// given to another image there later, whose removed snapshot takes the data of this one with it.
func TestSnapshotOfUnusedImageWithDataPool(t *testing.T) {
	p, prefix := testPool(t, connect(t, rigConfig(t)))
	options := layering()
	options.DataPool = "ecdata"
	i := mustCreate(t, p, prefix+"a", 1<<30, options, false).(*image) //nolint:forcetypeassert,errcheck // of this package
	writeAt(t, p, prefix+"a", "before", 0)
	before := takeID(t, p.connection, "ecdata")
	for takeID(t, p.connection, "volumes") <= before {
	}
	check(t, i.CreateSnapshot("s"))
	if i.isOpen() {
		t.Error("librbd has opened the image, want its header changed directly")
	}
	after := takeID(t, p.connection, "ecdata")
	writeAt(t, p, prefix+"a", "after ", 0)
	snapshots, err := i.Snapshots()
	check(t, err)
	id := snapshots[0].ID
	if id <= before || id >= after {
		t.Errorf("got the id %d, want one between %d and %d, as the data pool has given", id, before, after)
	}
	for takeID(t, p.connection, "ecdata") <= id {
	}
	check(t, p.Clone(p, prefix+"a", "s", prefix+"clone", options))
	wantContent(t, p, prefix+"clone", "before")
}

// takeID takes an id of a snapshot from a pool, and gives it back.
func takeID(t *testing.T, c *connection, pool string) uint64 {
	t.Helper()
	io, err := c.conn.OpenIOContext(pool)
	check(t, err)
	defer io.Destroy()
	id, err := takeSnapshotID(io)
	check(t, err)
	check(t, releaseSnapshotID(io, id))
	return id
}

// A snapshot without clones goes at once: nothing would remove it later.
func TestSnapshotWithoutClonesIsRemoved(t *testing.T) {
	p, prefix := testPool(t, connect(t, rigConfig(t)))
	i := ofUnused(t, p, prefix+"a")
	check(t, i.CreateSnapshot("s"))
	check(t, i.RemoveSnapshot("s"))
	wantSnapshots(t, p, prefix+"a", 0, 0)
}
