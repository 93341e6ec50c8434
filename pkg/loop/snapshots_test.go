package loop

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/loop/internal/volumedir"
	"github.com/growvol/growvol/pkg/loopcsi"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

func TestRestoreReturnsDataOfSnapshot(t *testing.T) {
	for name, share := range map[string]func(dst, src *os.File) error{
		"reflinks if possible": ficlone, "no reflinks": noReflink,
	} {
		t.Run(name, func(t *testing.T) {
			b := openBackend(t)
			b.shareBlocks = share
			v := createVolume(t, b, "a", volume.GiB)
			const farOffset = 700 << 20
			writeData(t, b, v.ID, "first", 0)
			writeData(t, b, v.ID, "far", farOffset)
			s, err := b.CreateSnapshot(t.Context(), volume.SnapshotRequest{
				Name: "s", VolumeID: v.ID, Parameters: map[string]string{"csi.storage.k8s.io/x": "y"},
			})
			if err != nil || s.VolumeID != v.ID || s.Size != volume.GiB || !s.Ready || s.Created.IsZero() || s.Name != "s" {
				t.Fatalf("snapshot: got %+v, %v", s, err)
			}
			writeData(t, b, v.ID, "later", 0)
			if err := b.Delete(t.Context(), v.ID); err != nil { // the snapshot does not depend on it
				t.Fatal(err)
			}
			r, err := b.Restore(t.Context(), volume.CreateRequest{
				Name: "r", Size: 2 * volume.GiB, Range: volume.Range{
					Required: 2 * volume.GiB,
				}, Source: volume.Source{SnapshotID: s.ID},
			})
			if err != nil || r.Size != 2*volume.GiB || r.Source.SnapshotID != s.ID {
				t.Fatalf("restore: got %+v, %v, want 2 GiB from %s", r, err, s.ID)
			}
			if err := b.DeleteSnapshot(t.Context(), s.ID); err != nil {
				t.Fatal(err)
			}
			wantData(t, b, volumedir.Volumes, r.ID, "first", 0)
			wantData(t, b, volumedir.Volumes, r.ID, "far", farOffset)
			var st unix.Stat_t
			if err := unix.Stat(b.store.DataPath(volumedir.Volumes, r.ID), &st); err != nil ||
				st.Blocks*512 > volume.MiB.Bytes() {
				t.Errorf("the copy uses %d bytes on disk, %v, want at most 1 MiB: holes must stay holes", st.Blocks*512, err)
			}
		})
	}
}

func TestCreateSnapshotReturnsExistingSnapshot(t *testing.T) {
	b := openBackend(t)
	v, other := createVolume(t, b, "a", volume.GiB), createVolume(t, b, "b", volume.GiB)
	req := volume.SnapshotRequest{Name: "s", VolumeID: v.ID}
	first, err := b.CreateSnapshot(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	second, err := b.CreateSnapshot(t.Context(), req)
	if err != nil || second != first {
		t.Errorf("second call: got %+v, %v, want %+v", second, err, first)
	}
	if got, err := b.GetSnapshot(t.Context(), first.ID); err != nil || got != first {
		t.Errorf("read: got %+v, %v, want %+v", got, err, first)
	}
	req.VolumeID = other.ID
	_, err = b.CreateSnapshot(t.Context(), req)
	volumetest.WantKind(t, err, volume.KindAlreadyExists, v.ID)
	_, err = b.CreateSnapshot(t.Context(), volume.SnapshotRequest{
		Name: "x", VolumeID: v.ID, Parameters: map[string]string{"force-create": "true"},
	})
	volumetest.WantKind(t, err, volume.KindInvalid, "force-create")
	for range 2 {
		if err := b.DeleteSnapshot(t.Context(), first.ID); err != nil {
			t.Error(err)
		}
	}
	_, err = b.GetSnapshot(t.Context(), first.ID)
	volumetest.WantKind(t, err, volume.KindNotFound)
	_, err = b.Restore(t.Context(), volume.CreateRequest{
		Name: "r", Size: volume.GiB, Source: volume.Source{SnapshotID: first.ID},
	})
	volumetest.WantKind(t, err, volume.KindNotFound, first.ID)
}

func TestCloneHasAtLeastSizeOfSource(t *testing.T) {
	b := openBackend(t)
	v := createVolume(t, b, "a", 3*volume.GiB)
	from := volume.Source{VolumeID: v.ID}
	_, err := b.CloneVolume(t.Context(), volume.CreateRequest{
		Name: "small", Size: volume.GiB, Range: volume.Range{Required: volume.GiB}, Source: from,
	})
	volumetest.WantKind(t, err, volume.KindOutOfRange, "3 GiB")
	_, err = b.CloneVolume(t.Context(), volume.CreateRequest{
		Name: "small", Size: volume.GiB, Range: volume.Range{Limit: 2 * volume.GiB}, Source: from,
	})
	volumetest.WantKind(t, err, volume.KindOutOfRange)
	// The request has no size, only the default.
	c, err := b.CloneVolume(t.Context(), volume.CreateRequest{Name: "c", Size: volume.GiB, Source: from})
	if err != nil || c.Size != 3*volume.GiB {
		t.Errorf("got %+v, %v, want 3 GiB", c, err)
	}
	// The retry of a clone does not need the source.
	if err := b.Delete(t.Context(), v.ID); err != nil {
		t.Fatal(err)
	}
	if again, err := b.CloneVolume(t.Context(), volume.CreateRequest{
		Name: "c", Size: volume.GiB, Source: from,
	}); err != nil || again.ID != c.ID {
		t.Errorf("retry: got %+v, %v, want %s", again, err, c.ID)
	}
}

func TestSparseCopyKeepsDataAndHoles(t *testing.T) {
	dir := t.TempDir()
	for name, write := range map[string]map[int64]string{
		"empty": {}, "start": {0: "x"}, "end": {16<<20 - 1: "x"}, "several": {4096: "a", 9 << 20: "b", 13<<20 + 7: "c"},
	} {
		src, err := os.Create(dir + "/src-" + name)
		if err != nil {
			t.Fatal(err)
		}
		dst, err := os.Create(dir + "/dst-" + name)
		if err != nil {
			t.Fatal(err)
		}
		if err := src.Truncate(16 << 20); err != nil {
			t.Fatal(err)
		}
		for at, text := range write {
			if _, err := src.WriteAt([]byte(text), at); err != nil {
				t.Fatal(err)
			}
		}
		if err := sparseCopy(t.Context(), src, dst); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		a, err1 := os.ReadFile(src.Name())
		b, err2 := os.ReadFile(dst.Name())
		if err1 != nil || err2 != nil || !slices.Equal(a, b) {
			t.Errorf("%s: got another content (%v, %v), want that of the source", name, err1, err2)
		}
		if len(write) > 0 {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := sparseCopy(ctx, src, dst); err == nil {
				t.Errorf("%s: got success under a context that has ended, want an error", name)
			}
		}
		if err := src.Close(); err != nil {
			t.Error(err)
		}
		if err := dst.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestCopyRangeCopiesEveryChunk writes around the end of the first chunk.
func TestCopyRangeCopiesEveryChunk(t *testing.T) {
	dir := t.TempDir()
	src, err1 := os.Create(dir + "/src")
	dst, err2 := os.Create(dir + "/dst")
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	const text, start, end = "end of the first chunk", 4096, copyChunkSize + 1<<20
	for _, at := range []int64{0, copyChunkSize - 4000, start + copyChunkSize - 10, end - int64(len(text)), end} {
		if _, err := src.WriteAt([]byte(text), at); err != nil {
			t.Fatal(err)
		}
	}
	if err := copyRange(t.Context(), src, dst, start, end); err != nil {
		t.Fatal(err)
	}
	want, err1 := io.ReadAll(io.NewSectionReader(src, start, end-start))
	got, err2 := io.ReadAll(io.NewSectionReader(dst, start, 2*end))
	if err := errors.Join(err1, err2); err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %d bytes, %v; want the %d bytes from %d to %d of the source", len(got), err, len(want), start, end)
	}
	if before, err := io.ReadAll(io.NewSectionReader(dst, 0, start)); err != nil || slices.Max(before) != 0 {
		t.Errorf("bytes before the range were copied (%v)", err)
	}
	if err := copyRange(t.Context(), src, dst, start, 2*end); err == nil {
		t.Error("got success for a source that ends before the range, want an error")
	}
	if err := errors.Join(src.Close(), dst.Close()); err != nil {
		t.Error(err)
	}
}

func TestPoolSizeBoundsVolumesAndSnapshots(t *testing.T) {
	b := openBackend(t, func(o *Options) { o.PoolSize = 4 * volume.MiB })
	a := createVolume(t, b, "a", volume.MiB)
	wantCapacity := func(want volume.Size) {
		t.Helper()
		got, err := b.Capacity(t.Context(), volume.CapacityRequest{Topology: b.topology()})
		if err != nil || got.Available != want {
			t.Errorf("available: got %s, %v, want %s", got.Available, err, want)
		}
	}
	wantCapacity(3 * volume.MiB)
	_, err := b.Create(t.Context(), blankRequest("b", 4*volume.MiB))
	volumetest.WantKind(t, err, volume.KindOutOfRange, "3 MiB", "4 MiB")
	if _, err := b.Expand(t.Context(), a.ID, 2*volume.MiB); err != nil { // only the additional 1 MiB counts
		t.Error(err)
	}
	_, err = b.Expand(t.Context(), a.ID, 5*volume.MiB)
	volumetest.WantKind(t, err, volume.KindOutOfRange)
	s, err := b.CreateSnapshot(t.Context(), volume.SnapshotRequest{Name: "s", VolumeID: a.ID})
	if err != nil {
		t.Fatal(err)
	}
	wantCapacity(0)
	_, err = b.Create(t.Context(), blankRequest("c", volume.MiB))
	volumetest.WantKind(t, err, volume.KindOutOfRange, "0 B")
	if err := b.DeleteSnapshot(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
	wantCapacity(2 * volume.MiB)
	if other, err := b.Capacity(t.Context(), volume.CapacityRequest{
		Topology: volume.Topology{loopcsi.TopologyKey: "node-2"},
	}); err != nil || other.Available != 0 {
		t.Errorf("at another node: got %+v, %v, want 0 B", other, err)
	}
	_, err = b.Capacity(t.Context(), volume.CapacityRequest{Parameters: map[string]string{"type": "fast"}})
	volumetest.WantKind(t, err, volume.KindInvalid, "type")
	if len(b.pool.reserved) != 0 {
		t.Errorf("got reservations %v, want none", b.pool.reserved)
	}
}

// Concurrent calls together do not exceed the pool.
func TestConcurrentCreatesDoNotExceedPool(t *testing.T) {
	b := openBackend(t, func(o *Options) { o.PoolSize = 4 * volume.GiB })
	gate := make(chan struct{})
	b.store.ops.beforeStep = func(step, _ string) error {
		if step == "create" {
			<-gate // every call that got a reservation waits here
		}
		return nil
	}
	const calls, maxCreated = 16, 4
	results := make(chan error, calls)
	for i := range calls {
		go func() {
			_, err := b.Create(t.Context(), blankRequest(strings.Repeat("x", i+1), volume.GiB))
			results <- err
		}()
	}
	timeout := time.After(10 * time.Second)
	for range calls - maxCreated {
		select {
		case err := <-results:
			volumetest.WantKind(t, err, volume.KindOutOfRange, "0 B")
		case <-timeout:
			close(gate)
			t.Fatalf("more than %d volumes of 1 GiB got a reservation in a pool of 4 GiB", maxCreated)
		}
	}
	close(gate)
	for range maxCreated {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}
