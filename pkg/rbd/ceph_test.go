//go:build ceph

package rbd

import (
	"encoding/binary"
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/rbd/cluster"
	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/rbd/internal/librbd"
	"github.com/growvol/growvol/pkg/volume"
)

// This file runs deletions and copies on a real cluster, that of tests/ceph, and counts the
// operations of its OSDs.

// rigVariable is the environment variable with the state directory of the rig.
const rigVariable = "GROWVOL_CEPH_DIR"

// newRealRig returns a backend on the real cluster.
func newRealRig(t *testing.T) (b *Backend, dir string) {
	t.Helper()
	dir = os.Getenv(rigVariable)
	if dir == "" {
		t.Skipf("no Ceph: %s is not set (make ceph-up ceph-test sets it)", rigVariable)
	}
	files := cluster.Files{Config: filepath.Join(dir, "config.json"), Keys: filepath.Join(dir, "keys")}
	b, err := New(t.Context(), Options{Clusters: files, Dialer: librbd.Dialer{}, NamePrefix: "copies-"})
	check(t, err)
	t.Cleanup(b.Close)
	return b, dir
}

// osdOperations returns how many operations of clients the OSDs have served, from their admin
// sockets: a command that ends with a zero byte, answered with a length and JSON.
func osdOperations(t *testing.T, dir string) int {
	t.Helper()
	sockets, err := filepath.Glob(filepath.Join(dir, "run", "ceph-osd.*.asok"))
	if err != nil || len(sockets) == 0 {
		t.Fatalf("no admin sockets of OSDs in %s: %v", dir, err)
	}
	total := 0
	for _, socket := range sockets {
		conn, err := new(net.Dialer).DialContext(t.Context(), "unix", socket)
		check(t, err)
		_, err = conn.Write([]byte(`{"prefix": "perf dump", "logger": "osd", "counter": "op"}` + "\x00"))
		check(t, err)
		var length uint32
		check(t, binary.Read(conn, binary.BigEndian, &length))
		answer := make([]byte, length)
		_, err = io.ReadFull(conn, answer)
		check(t, err)
		check(t, conn.Close())
		var counters struct {
			OSD struct {
				Op int `json:"op"`
			} `json:"osd"`
		}
		check(t, json.Unmarshal(answer, &counters))
		total += counters.OSD.Op
	}
	return total
}

// spareOperations are those that other clients of the rig may make meanwhile, such as pings of
// watches.
const spareOperations = 3

// TestOperationsOfCopies measures each RPC. A limit is the measured number: a larger one would make
// every call more expensive. The goals are for images with the feature layering only; a deletion of
// one with the default features takes and releases the exclusive lock, too.
func TestOperationsOfCopies(t *testing.T) {
	b, dir := newRealRig(t)
	for features, limits := range map[string]map[string]int{
		"layering": {
			"create": 12, "create again": 6, "snapshot": 10, "get snapshot": 3, "restore": 47, "restore into larger": 54,
			"clone": 59, "delete": 54, "delete restored": 64,
		},
		"layering,exclusive-lock": {
			"create": 12, "create again": 6, "snapshot": 10, "get snapshot": 3, "restore": 47, "restore into larger": 54,
			"clone": 59, "delete": 75, "delete restored": 85,
		},
	} {
		t.Run(features, func(t *testing.T) {
			r := &rig{Backend: b}
			name := func(short string) string {
				return strings.ReplaceAll(features, ",", "-") + "-" + short
			}
			req := func(short string) volume.CreateRequest {
				return request(name(short), "imageFeatures", features, "clusterID", realCluster)
			}
			for _, short := range []string{"d", "c", "b", "e", "a"} { // what a test that was killed has left
				check(t, b.Delete(t.Context(), realCluster+"/volumes/copies-"+name(short)))
			}
			var source, restored, clone volume.Volume
			var snapshot volume.Snapshot
			copyOf := func(short string, from volume.Source, size volume.Size) func() (volume.Volume, error) {
				return func() (volume.Volume, error) {
					c := req(short)
					c.Source, c.Size, c.Range.Required = from, size, size
					return r.createCopy(t, c)
				}
			}
			for _, step := range []struct {
				name string
				run  func() error
			}{
				{"connect", func() error { _, err := b.Get(t.Context(), realCluster+"/volumes/x"); _ = err; return nil }},
				{"create", func() error { source = r.create(t, req("a")); return nil }},
				{"create again", func() error { source = r.create(t, req("a")); return nil }},
				{"snapshot", func() (err error) {
					snapshot, err = b.CreateSnapshot(t.Context(), volume.SnapshotRequest{Name: name("s"), VolumeID: source.ID})
					return err
				}},
				{"snapshot again", func() (err error) {
					snapshot, err = b.CreateSnapshot(t.Context(), volume.SnapshotRequest{Name: name("s"), VolumeID: source.ID})
					return err
				}},
				{"get snapshot", func() (err error) { snapshot, err = b.GetSnapshot(t.Context(), snapshot.ID); return err }},
				{"restore", func() (err error) {
					restored, err = copyOf("b", volume.Source{SnapshotID: snapshot.ID}, volume.GiB)()
					return err
				}},
				{"restore into larger", func() (err error) {
					_, err = copyOf("e", volume.Source{SnapshotID: snapshot.ID}, 2*volume.GiB)()
					return err
				}},
				{"clone", func() (err error) {
					clone, err = copyOf("c", volume.Source{VolumeID: source.ID}, volume.GiB)()
					return err
				}},
				{"delete (renamed)", func() error { return b.Delete(t.Context(), source.ID) }},
				{"delete clone", func() error { return b.Delete(t.Context(), clone.ID) }},
				{"delete restored", func() error { return b.Delete(t.Context(), restored.ID) }},
				{"delete restored 2 GiB", func() error { return b.Delete(t.Context(), realCluster+"/volumes/copies-"+name("e")) }},
				{"delete snapshot (the last)", func() error { return b.DeleteSnapshot(t.Context(), snapshot.ID) }},
				{"delete snapshot again", func() error { return b.DeleteSnapshot(t.Context(), snapshot.ID) }},
				{"delete again", func() error { return b.Delete(t.Context(), source.ID) }},
				{"create", func() error { source = r.create(t, req("d")); return nil }},
				{"delete", func() error { return b.Delete(t.Context(), source.ID) }},
			} {
				before, start := osdOperations(t, dir), time.Now()
				check(t, step.run())
				duration, count := time.Since(start), osdOperations(t, dir)-before
				t.Logf("%-28s %3d operations %6.1f ms", step.name, count, float64(duration.Microseconds())/1000)
				if limit, ok := limits[step.name]; ok && count > limit+spareOperations {
					t.Errorf("%s: got %d operations, want at most %d", step.name, count, limit)
				}
			}
			names := r.realNames(t)
			if left := slices.DeleteFunc(names, func(n string) bool { return !strings.Contains(n, name("")) }); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// realPool opens the pool volumes of the real cluster.
func (r *rig) realPool(t *testing.T) ceph.Pool {
	t.Helper()
	return openReal(t, r.Backend, "volumes")
}

// openReal opens a pool of the real cluster on a connection of its own.
func openReal(t *testing.T, b *Backend, name string) ceph.Pool {
	t.Helper()
	config, err := b.opts.Clusters.Read(realCluster)
	check(t, err)
	c, err := librbd.Dialer{}.Connect(config)
	check(t, err)
	t.Cleanup(c.Close)
	pool, err := c.Pool(name, "")
	check(t, err)
	return pool
}

// realNames lists the images of the pool.
func (r *rig) realNames(t *testing.T) []string {
	t.Helper()
	names, err := r.realPool(t).List()
	check(t, err)
	return names
}
