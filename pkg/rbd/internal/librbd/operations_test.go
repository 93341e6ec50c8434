//go:build ceph

package librbd

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
)

// operations returns how many operations of clients the OSDs of the rig have served.
func operations(t *testing.T, admin *connection) int {
	t.Helper()
	total := 0
	for osd := range 3 {
		out, status, err := admin.conn.OsdCommand(osd, [][]byte{[]byte(`{"prefix":"perf dump","format":"json"}`)})
		if err != nil {
			t.Fatal(err, status)
		}
		var counters struct {
			OSD struct {
				Op int `json:"op"`
			} `json:"osd"`
		}
		if err := json.Unmarshal(out, &counters); err != nil {
			t.Fatal(err)
		}
		total += counters.OSD.Op
	}
	return total
}

// TestOperations measures the calls of the interface: operations of the OSDs, and time. Each limit
// is the measured number; a larger one would make every CSI call more expensive. The manager of
// Ceph has operations of its own now and then: a second run decides.
func TestOperations(t *testing.T) {
	admin := connect(t, adminConfig(t))
	p, prefix := testPool(t, connect(t, rigConfig(t)))
	exceeded := countOperations(t, admin, p, prefix+"first-")
	if len(exceeded) > 0 {
		t.Logf("measured again: %q", exceeded)
		exceeded = countOperations(t, admin, p, prefix+"second-")
	}
	for _, text := range exceeded {
		t.Error(text)
	}
}

// countOperations runs the calls and returns which needed more operations than allowed.
func countOperations(t *testing.T, admin *connection, p *pool, prefix string) (exceeded []string) {
	t.Helper()
	var id string
	var writable, readOnly ceph.Image
	name, clone := prefix+"a", prefix+"clone"
	for _, step := range []struct {
		name  string
		limit int
		run   func() error
	}{
		{"ImageID (absent)", 1, func() error { _, _ = p.ImageID(name); return nil }},
		{"Create", 6, func() error { return p.Create(name, 1<<30, layering()) }},
		{"ImageID", 1, func() (err error) { id, err = p.ImageID(name); return err }},
		{"SetMetadata", 1, func() error { return p.SetMetadata(id, "growvol", "{}") }},
		{"Metadata", 1, func() error { _, err := p.Metadata(id); return err }},
		{"RemoveMetadata", 1, func() error { return p.RemoveMetadata(id, "growvol") }},
		{"Open", 1, func() (err error) { readOnly, err = p.Open(name, true); return err }},
		{"Info", 1, func() error { _, err := readOnly.Info(); return err }},
		{"Size", 1, func() error { _, err := readOnly.Size(); return err }},
		{"LockHolder", 1, func() error { _, _, err := readOnly.LockHolder(); return err }},
		{"Watchers (librbd opens the image)", 11, func() error { _, err := readOnly.Watchers(); return err }},
		{"Watchers", 1, func() error { _, err := readOnly.Watchers(); return err }},
		{"Parent", 0, func() error { _, _, err := readOnly.Parent(); return err }},
		{"Children", 1, func() error { _, err := readOnly.Children(); return err }},
		{"Close", 0, func() error { return readOnly.Close() }},
		{"OpenID", 1, func() (err error) { readOnly, err = p.OpenID(id, true); return err }},
		{"Info by id", 2, func() error { _, err := readOnly.Info(); return err }},
		{"Close", 0, func() error { return readOnly.Close() }},
		{"Open for writing", 1, func() (err error) { writable, err = p.Open(name, false); return err }},
		{"Grow", 3, func() error { return writable.Grow(2 << 30) }},
		{"Grow to the same size", 1, func() error { return writable.Grow(2 << 30) }},
		{"CreateSnapshot", 5, func() error { return writable.CreateSnapshot("s") }},
		{"Snapshots (librbd opens the image)", 14, func() error { _, err := writable.Snapshots(); return err }},
		{"Grow while librbd has the image open", 4, func() error { return writable.Grow(3 << 30) }},
		{"Close", 6, func() error { return writable.Close() }},
		{"Clone", 35, func() error { return p.Clone(p, name, "s", clone, layering()) }},
		{"OpenID, RemoveSnapshot of one with a clone, Close", 5, func() error {
			i, err := p.OpenID(id, false)
			if err != nil {
				return err
			}
			if err := i.RemoveSnapshot("s"); err != nil {
				return err
			}
			return i.Close()
		}},
		{"Rename", 27, func() error { return p.Rename(name, name+"-b") }},
		{"Remove a clone and the snapshot that has waited for it", 97, func() error { return p.Remove(clone) }},
		{"OpenID, CreateSnapshot, RemoveSnapshot, Close", 27, func() error {
			i, err := p.OpenID(id, false)
			if err != nil {
				return err
			}
			if err := i.CreateSnapshot("s"); err != nil {
				return err
			}
			if err := i.RemoveSnapshot("s"); err != nil {
				return err
			}
			return i.Close()
		}},
		{"Remove an empty image of 3 GiB", 73, func() error { return p.Remove(name + "-b") }},
		{"PoolUsage", 0, func() error { _, err := p.connection.PoolUsage("volumes"); return err }},
		{"Health", 0, p.connection.Health},
		{"AwaitMap", 0, p.AwaitMap}, // reads of objects that do not exist are not counted
		{"Blocklist", 0, func() error { _, err := p.connection.Blocklist(); return err }},
		{"CreateObject", 1, func() error { return p.CreateObject(prefix+"o", []byte("x")) }},
		{"ReadObject", 1, func() error { _, err := p.ReadObject(prefix + "o"); return err }},
		{"OmapValues", 1, func() error { _, err := p.OmapValues(prefix+"o", "k"); return err }},
		{"RemoveObject", 1, func() error { return p.RemoveObject(prefix + "o") }},
	} {
		before := operations(t, admin)
		start := time.Now()
		if err := step.run(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		duration := time.Since(start)
		got := operations(t, admin) - before
		t.Logf("%-42s %3d operations %6.1f ms", step.name, got, float64(duration.Microseconds())/1000)
		if got > step.limit {
			exceeded = append(exceeded, fmt.Sprintf("%s: got %d operations, want at most %d", step.name, got, step.limit))
		}
	}
	return exceeded
}
