package loop

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/growvol/growvol/pkg/loop/internal/volumedir"
	"github.com/growvol/growvol/pkg/loopcsi"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

func TestCreate(t *testing.T) {
	b := openBackend(t)
	req := blankRequest("pvc-1", 10*volume.GiB)
	req.Parameters = map[string]string{volume.MkfsOptionsKey: "-b 4096", "csi.storage.k8s.io/pvc/name": "data"}
	v, err := b.Create(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if !volumedir.Volumes.IsID(v.ID) {
		t.Errorf("got id %q, want the form of an id", v.ID)
	}
	want := volume.Volume{
		ID: v.ID, Name: "pvc-1", Size: 10 * volume.GiB, Topology: []volume.Topology{{loopcsi.TopologyKey: testNode}},
		VolumeContext: map[string]string{volume.MkfsOptionsKey: "-b 4096"},
	}
	if !reflect.DeepEqual(v, want) {
		t.Errorf("created: got %+v, want %+v", v, want)
	}
	if got, err := b.Get(t.Context(), v.ID); err != nil || !reflect.DeepEqual(got, v) {
		t.Errorf("read: got %+v, %v, want %+v", got, err, v)
	}
	st, err := os.Stat(b.store.DataPath(volumedir.Volumes, v.ID))
	if err != nil || st.Size() != (10*volume.GiB).Bytes() {
		t.Errorf("file: got %v, %v, want 10 GiB", st, err)
	}
}

func TestCreateReturnsExistingVolume(t *testing.T) {
	b := openBackend(t)
	v := createVolume(t, b, "a", 2*volume.GiB)
	if again := createVolume(t, b, "a", volume.GiB); again.ID != v.ID || again.Size != 2*volume.GiB {
		t.Errorf("got %+v, want %+v", again, v)
	}
	larger := blankRequest("a", 3*volume.GiB)
	limited := blankRequest("a", volume.GiB)
	limited.Range.Limit = volume.GiB
	sourced := blankRequest("a", volume.GiB)
	sourced.Source = volume.Source{VolumeID: "vol-x"}
	parameters := blankRequest("a", volume.GiB)
	parameters.Parameters = map[string]string{volume.MkfsOptionsKey: "-F"}
	for word, req := range map[string]volume.CreateRequest{
		"below 3 GiB": larger, "above 1 GiB": limited, "volume vol-x": sourced, "parameters": parameters,
	} {
		_, err := b.Create(t.Context(), req)
		volumetest.WantKind(t, err, volume.KindAlreadyExists, word)
	}
}

func TestFindReturnsVolumeByName(t *testing.T) {
	b := openBackend(t)
	if v, found, err := b.Find(t.Context(), volume.CreateRequest{Name: "a"}); found || err != nil {
		t.Errorf("before the creation: got %+v, %v, want none", v, err)
	}
	a := createVolume(t, b, "a", volume.GiB)
	c, err := b.CloneVolume(t.Context(), volume.CreateRequest{
		Name: "c", Size: volume.GiB, Source: volume.Source{VolumeID: a.ID},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Delete(t.Context(), a.ID); err != nil {
		t.Fatal(err)
	}
	if v, found, err := b.Find(t.Context(), volume.CreateRequest{
		Name: "c",
	}); !found || err != nil || v.ID != c.ID || v.Source.VolumeID != a.ID {
		t.Errorf("got %+v, %t, %v, want %s from %s", v, found, err, c.ID, a.ID)
	}
	if err := os.Remove(b.store.DataPath(volumedir.Volumes, c.ID)); err != nil {
		t.Fatal(err)
	}
	_, _, err = b.Find(t.Context(), volume.CreateRequest{Name: "c"})
	volumetest.WantKind(t, err, volume.KindInternal, "cannot read the volume")
}

func TestCreateRefusesInvalidRequests(t *testing.T) {
	b := openBackend(t, func(o *Options) { o.MaxVolumeSize = 4 * volume.GiB })
	_, err := b.Create(t.Context(), blankRequest("big", 5*volume.GiB))
	volumetest.WantKind(t, err, volume.KindOutOfRange, "4 GiB")
	_, err = b.Create(t.Context(), blankRequest("", volume.GiB))
	volumetest.WantKind(t, err, volume.KindInvalid)
	_, err = b.Create(t.Context(), blankRequest("\xff", volume.GiB))
	volumetest.WantKind(t, err, volume.KindInvalid)
	unknown := blankRequest("p", volume.GiB)
	unknown.Parameters = map[string]string{"availability": "nova"}
	_, err = b.Create(t.Context(), unknown)
	volumetest.WantKind(t, err, volume.KindInvalid, "availability", volume.MkfsOptionsKey)
	otherNode := blankRequest("t", volume.GiB)
	otherNode.Requisite = []volume.Topology{{loopcsi.TopologyKey: "node-2"}, {loopcsi.TopologyKey: "node-3"}}
	_, err = b.Create(t.Context(), otherNode)
	volumetest.WantKind(t, err, volume.KindExhausted, "node-1")
	otherNode.Requisite = append(otherNode.Requisite, volume.Topology{loopcsi.TopologyKey: testNode})
	if _, err := b.Create(t.Context(), otherNode); err != nil {
		t.Errorf("with this node in the requisite topology: got %v, want success", err)
	}
	wantFiles(t, b, "volumes/"+volumedir.Volumes.ID("t"))
}

// Every name is allowed, and none becomes part of a path.
func TestAnyNameIsAllowed(t *testing.T) {
	b := openBackend(t)
	seen := map[string]bool{}
	for _, name := range []string{
		"../../etc/passwd", "a/b", ".", "..", "with\nnewline\x00", "日本語", strings.Repeat("x", 5000), " ", "-rf",
	} {
		v := createVolume(t, b, name, volume.MiB)
		if seen[v.ID] || v.Name != name || !volumedir.Volumes.IsID(v.ID) {
			t.Errorf("%q: got %+v, want this name and a new id", name, v)
		}
		seen[v.ID] = true
	}
	if entries, err := os.ReadDir(filepath.Join(b.opts.Dir, "volumes")); err != nil || len(entries) != len(seen) {
		t.Errorf("got %d volumes, %v, want %d", len(entries), err, len(seen))
	}
}

// For every method an id of another form does not exist, and no file outside changes.
func TestInvalidIDsDoNotExist(t *testing.T) {
	b := openBackend(t)
	outside := filepath.Join(b.opts.Dir, "outside")
	for _, f := range []string{"data", "meta.json"} {
		if err := os.MkdirAll(outside, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(outside, f), []byte(`{"name":"x"}`), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range []string{
		"../outside", "..", "", ".", "/etc", "vol-", volumedir.Snapshots.ID("a"), "vol-" + strings.Repeat("G", 32),
		volumedir.Volumes.ID("never made"),
	} {
		_, err := b.Get(t.Context(), id)
		volumetest.WantKind(t, err, volume.KindNotFound)
		_, err = b.Expand(t.Context(), id, volume.GiB)
		volumetest.WantKind(t, err, volume.KindNotFound)
		_, err = b.Attach(t.Context(), volume.AttachRequest{VolumeID: id, Node: testNode})
		volumetest.WantKind(t, err, volume.KindNotFound)
		_, err = b.CreateSnapshot(t.Context(), volume.SnapshotRequest{Name: "s", VolumeID: id})
		volumetest.WantKind(t, err, volume.KindNotFound)
		_, err = b.CloneVolume(t.Context(), volume.CreateRequest{
			Name: "c", Size: volume.GiB, Source: volume.Source{VolumeID: id},
		})
		volumetest.WantKind(t, err, volume.KindNotFound)
		if err := b.Delete(t.Context(), id); err != nil {
			t.Errorf("delete %q: %v", id, err)
		}
		if err := b.DeleteSnapshot(t.Context(), id); err != nil {
			t.Errorf("delete snapshot %q: %v", id, err)
		}
		if err := b.Detach(t.Context(), id, testNode); err != nil {
			t.Errorf("detach %q: %v", id, err)
		}
	}
	if _, err := os.Stat(filepath.Join(outside, "data")); err != nil {
		t.Errorf("a file outside of the collections: %v", err)
	}
}

// A missing directory (not mounted) never means that a volume does not exist.
func TestMissingDirectoryIsInternalError(t *testing.T) {
	b := openBackend(t)
	v := createVolume(t, b, "a", volume.GiB)
	if err := b.CheckHealth(t.Context()); err != nil {
		t.Error(err)
	}
	if err := os.Rename(filepath.Join(b.opts.Dir, "volumes"), filepath.Join(b.opts.Dir, "otherNode")); err != nil {
		t.Fatal(err)
	}
	_, err := b.Get(t.Context(), v.ID)
	volumetest.WantKind(t, err, volume.KindInternal, "mounted")
	volumetest.WantKind(t, b.Delete(t.Context(), v.ID), volume.KindInternal)
	volumetest.WantKind(t, b.Detach(t.Context(), v.ID, ""), volume.KindInternal)
	volumetest.WantKind(t, b.CheckHealth(t.Context()), volume.KindUnavailable, "volumes")
	if err := os.Rename(filepath.Join(b.opts.Dir, "otherNode"), filepath.Join(b.opts.Dir, "volumes")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(b.store.DataPath(volumedir.Volumes, v.ID)); err != nil {
		t.Fatal(err)
	}
	_, err = b.Get(t.Context(), v.ID)
	volumetest.WantKind(t, err, volume.KindInternal, "cannot read the volume", volumedir.DataFile)
}

func TestExpandReachesTarget(t *testing.T) {
	b := openBackend(t, func(o *Options) { o.MaxVolumeSize = 100 * volume.GiB })
	v := createVolume(t, b, "a", volume.GiB)
	writeData(t, b, v.ID, "text", 4096)
	for _, c := range []struct{ target, want volume.Size }{
		{2 * volume.GiB, 2 * volume.GiB},
		{2 * volume.GiB, 2 * volume.GiB},
		{volume.GiB, 2 * volume.GiB}, // an older target
		{2*volume.GiB + 1, 2*volume.GiB + volume.MiB},
	} {
		got, err := b.Expand(t.Context(), v.ID, c.target)
		if err != nil || got.Size != c.want {
			t.Errorf("to %s: got %s, %v, want %s", c.target, got.Size, err, c.want)
		}
		st, err := os.Stat(b.store.DataPath(volumedir.Volumes, v.ID))
		if err != nil || st.Size() != c.want.Bytes() {
			t.Errorf("to %s: got a file of %d bytes, %v, want %s", c.target, st.Size(), err, c.want)
		}
	}
	wantData(t, b, volumedir.Volumes, v.ID, "text", 4096)
	_, err := b.Expand(t.Context(), v.ID, 101*volume.GiB)
	volumetest.WantKind(t, err, volume.KindOutOfRange, v.ID, "100 GiB")
}

func TestMaxVolumeSizeIs16TiBByDefault(t *testing.T) {
	b := openBackend(t)
	v := createVolume(t, b, "a", volume.GiB)
	_, err := b.Expand(t.Context(), v.ID, 16*volume.TiB+1)
	volumetest.WantKind(t, err, volume.KindOutOfRange, "16 TiB")
	_, err = b.Create(t.Context(), blankRequest("b", 1<<62))
	volumetest.WantKind(t, err, volume.KindOutOfRange, "16 TiB")
	b = openBackend(t, func(o *Options) { o.MaxVolumeSize = 17 * volume.TiB })
	if got := b.Limits().Max; got != 17*volume.TiB {
		t.Errorf("with the option: got %s, want 17 TiB", got)
	}
}

// A size that the filesystem cannot hold is OutOfRange, not an internal error.
func TestExpandBeyondFilesystemIsOutOfRange(t *testing.T) {
	b := openBackend(t, func(o *Options) { o.MaxVolumeSize = 1 << 62 })
	v := createVolume(t, b, "a", volume.GiB)
	_, err := b.Expand(t.Context(), v.ID, 1<<62)
	if err == nil {
		t.Skip("the filesystem here (tmpfs) holds files of any size")
	}
	volumetest.WantKind(t, err, volume.KindOutOfRange, "cannot hold")
	if got, err := b.Get(t.Context(), v.ID); err != nil || got.Size != volume.GiB {
		t.Errorf("after the failure: got %s, %v, want 1 GiB", got.Size, err)
	}
}

func TestDeleteNeedsDetachedVolume(t *testing.T) {
	b := openBackend(t)
	v := createVolume(t, b, "a", volume.GiB)
	attachVolume(t, b, v.ID)
	volumetest.WantKind(t, b.Delete(t.Context(), v.ID), volume.KindPrecondition, testNode)
	if err := b.Detach(t.Context(), v.ID, ""); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := b.Delete(t.Context(), v.ID); err != nil {
			t.Error(err)
		}
	}
	wantFiles(t, b)
	_, err := b.Get(t.Context(), v.ID)
	volumetest.WantKind(t, err, volume.KindNotFound, v.ID)
}

func TestAttachAndDetach(t *testing.T) {
	b := openBackend(t)
	v := createVolume(t, b, "a", volume.GiB)
	req := attachRequest(v.ID)
	for range 2 {
		published, err := b.Attach(t.Context(), req)
		if err != nil || published[loopcsi.ContextSize] != "1073741824" {
			t.Errorf("got publish context %v, %v, want the size in bytes", published, err)
		}
	}
	if got, err := b.Get(t.Context(), v.ID); err != nil || len(got.Nodes) != 1 || got.Nodes[0] != testNode {
		t.Errorf("attached: got %+v, %v, want node %s", got, err, testNode)
	}
	other := req
	other.ReadOnly = true
	_, err := b.Attach(t.Context(), other)
	volumetest.WantKind(t, err, volume.KindAlreadyExists)
	other = req
	other.Access.Mode = volume.AccessSingleNodeReaderOnly
	_, err = b.Attach(t.Context(), other)
	volumetest.WantKind(t, err, volume.KindAlreadyExists)
	other = req
	other.Access.Mode = volume.AccessMultiNodeMultiWriter
	_, err = b.Attach(t.Context(), other)
	volumetest.WantKind(t, err, volume.KindInvalid)
	other = req
	other.Node = "node-2"
	_, err = b.Attach(t.Context(), other)
	volumetest.WantKind(t, err, volume.KindNotFound, "node-2")

	if err := b.Detach(t.Context(), v.ID, "node-2"); err != nil {
		t.Error(err)
	}
	if got, _ := b.Get(t.Context(), v.ID); len(got.Nodes) != 1 {
		t.Errorf("after a detachment from another node: got nodes %v, want %s", got.Nodes, testNode)
	}
	for range 2 {
		if err := b.Detach(t.Context(), v.ID, testNode); err != nil {
			t.Error(err)
		}
	}
	if got, _ := b.Get(t.Context(), v.ID); len(got.Nodes) != 0 {
		t.Errorf("after the detachment: got nodes %v, want none", got.Nodes)
	}
}

// The directory was moved to another node while a volume was attached.
func TestAttachFailsWhenAttachedToOtherNode(t *testing.T) {
	b := openBackend(t)
	v := createVolume(t, b, "a", volume.GiB)
	attachVolume(t, b, v.ID)
	b.opts.Node = "node-2"
	_, err := b.Attach(t.Context(), volume.AttachRequest{
		VolumeID: v.ID, Node: "node-2", Access: volume.Access{Mode: volume.AccessSingleNodeWriter},
	})
	volumetest.WantKind(t, err, volume.KindPrecondition, testNode)
}

// Concurrent creations of one name, in one process or two, create one volume.
func TestConcurrentCreatesShareOneVolume(t *testing.T) {
	b := openBackend(t)
	other := newBackend(b.opts)
	var group sync.WaitGroup
	ids := make([]string, 40)
	for i := range ids {
		group.Go(func() {
			v, err := []*Backend{b, other}[i%2].Create(t.Context(), blankRequest("same", volume.GiB))
			if err != nil {
				t.Error(err)
			}
			ids[i] = v.ID
		})
	}
	group.Wait()
	if ids = slices.Compact(ids); len(ids) != 1 {
		t.Errorf("got volumes %v, want one", ids)
	}
	wantFiles(t, b, "volumes/"+ids[0])
}

// Concurrent creations and deletions of one name leave a complete volume or nothing.
func TestConcurrentCreatesAndDeletes(t *testing.T) {
	b := openBackend(t)
	id := volumedir.Volumes.ID("same")
	var group sync.WaitGroup
	for i := range 60 {
		group.Go(func() {
			if i%2 == 0 {
				if v, err := b.Create(t.Context(), blankRequest("same", volume.GiB)); err != nil || v.Size != volume.GiB {
					t.Errorf("create: got %+v, %v, want 1 GiB", v, err)
				}
				return
			}
			if err := b.Delete(t.Context(), id); err != nil {
				t.Errorf("delete: %v", err)
			}
		})
	}
	group.Wait()
	if err := b.Delete(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	wantFiles(t, b)
}

func TestConcurrentExpandsReachLargestTarget(t *testing.T) {
	b := openBackend(t)
	v := createVolume(t, b, "a", volume.MiB)
	var group sync.WaitGroup
	for i := range 30 {
		target := volume.Size(1+i) * volume.MiB
		group.Go(func() {
			if got, err := b.Expand(t.Context(), v.ID, target); err != nil || got.Size < target {
				t.Errorf("to %s: got %s, %v, want at least the target", target, got.Size, err)
			}
		})
	}
	group.Wait()
	if got, err := b.Get(t.Context(), v.ID); err != nil || got.Size != 30*volume.MiB {
		t.Errorf("got %s, %v, want 30 MiB", got.Size, err)
	}
}

// A call waits for the volume's lock until its context ends.
func TestExpandWaitsForLockUntilContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := openBackend(t)
		v := createVolume(t, b, "a", volume.GiB)
		_, unlock, err := b.store.Lock(t.Context(), volumedir.Volumes, v.ID)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
		defer cancel()
		_, err = b.Expand(ctx, v.ID, 2*volume.GiB)
		volumetest.WantKind(t, err, volume.KindInProgress, v.ID)
		time.AfterFunc(30*time.Millisecond, unlock)
		if got, err := b.Expand(t.Context(), v.ID, 2*volume.GiB); err != nil || got.Size != 2*volume.GiB {
			t.Errorf("after the unlock: got %s, %v, want 2 GiB", got.Size, err)
		}
	})
}

// The length of the data file is the only record of the size.
func TestRecordHasNoSize(t *testing.T) {
	b := openBackend(t)
	v := createVolume(t, b, "a", volume.GiB)
	text, err := os.ReadFile(filepath.Join(b.store.Path(volumedir.Volumes, v.ID), volumedir.RecordFile))
	var fields map[string]any
	if err != nil || json.Unmarshal(text, &fields) != nil {
		t.Fatalf("%s, %v", text, err)
	}
	for k, value := range fields {
		if n, ok := value.(float64); ok && volume.Size(n) == v.Size {
			t.Errorf("field %s of the record: got the size, want no size", k)
		}
	}
}

func TestNewNeedsDirectoryAndNode(t *testing.T) {
	_, err := New(t.Context(), Options{Node: testNode})
	volumetest.WantKind(t, err, volume.KindInvalid)
	_, err = New(t.Context(), Options{Dir: t.TempDir()})
	volumetest.WantKind(t, err, volume.KindInvalid)
}
