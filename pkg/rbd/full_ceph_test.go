//go:build ceph

package rbd

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// This file tests on a real cluster that deletion works in a full pool: it is the way out.

// fullPool is a pool that no other test of the package uses.
const fullPool = "small"

// TestOnCephDeletionInAFullPool deletes in a pool in which nothing was ever removed: librbd has not
// made its trash object.
func TestOnCephDeletionInAFullPool(t *testing.T) {
	r := newCephRig(t)
	req := func(name string) volume.CreateRequest { return r.request(name, "pool", fullPool) }
	source, plain := r.create(t, req("x")), r.create(t, req("y"))
	clone := req("z")
	clone.Source.VolumeID = source.ID
	cloned, err := r.CloneVolume(t.Context(), clone)
	check(t, err)
	s, err := r.CreateSnapshot(t.Context(), volume.SnapshotRequest{Name: r.prefix, VolumeID: source.ID})
	check(t, err)
	content := filepath.Join(t.TempDir(), "content")
	check(t, os.WriteFile(content, make([]byte, 2<<20), 0o600))
	r.run(t, "rados", "-p", fullPool, "put", "filler", content)
	if slices.Contains(strings.Fields(r.run(t, "rados", "-p", fullPool, "ls")), "rbd_trash") {
		r.run(t, "rados", "-p", fullPool, "rm", "rbd_trash")
	}
	r.run(t, "ceph", "osd", "pool", "set-quota", fullPool, "max_bytes", fmt.Sprint(1<<20))
	t.Cleanup(func() {
		r.run(t, "ceph", "osd", "pool", "set-quota", fullPool, "max_bytes", "0")
		r.awaitFullFlag(t, false)
		r.run(t, "rados", "-p", fullPool, "rm", "filler")
		check(t, r.DeleteSnapshot(context.Background(), s.ID))
		for _, id := range []string{cloned.ID, plain.ID, source.ID} {
			check(t, r.Delete(context.Background(), id))
		}
	})
	r.awaitFullFlag(t, true)
	// The OSDs learn of the flag after the monitors.
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	pool := openReal(t, r.Backend, fullPool)
	for pool.CreateObject(r.prefix+"probe", []byte("x")) == nil {
		check(t, pool.RemoveObject(r.prefix+"probe"))
		check(t, operation.Sleep(ctx, time.Second))
	}
	for _, id := range []string{plain.ID, source.ID, cloned.ID} {
		start := time.Now()
		check(t, r.Delete(t.Context(), id))
		t.Logf("deleted %s in %s", id, time.Since(start).Round(time.Millisecond))
	}
	check(t, r.DeleteSnapshot(t.Context(), s.ID))
	left := strings.Fields(r.run(t, "rbd", "ls", fullPool))
	if slices.ContainsFunc(left, func(name string) bool { return strings.HasPrefix(name, r.prefix) }) {
		t.Errorf("left: %v", left)
	}
}
