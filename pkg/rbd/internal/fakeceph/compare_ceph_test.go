//go:build ceph

package fakeceph

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/growvol/growvol/pkg/rbd/cluster"
	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/rbd/internal/librbd"
)

// This file connects the comparison to a real cluster, that of tests/ceph.

// rigVariable is the environment variable with the state directory of the rig.
const rigVariable = "GROWVOL_CEPH_DIR"

func newRealWorld(t *testing.T) *world {
	t.Helper()
	dir := os.Getenv(rigVariable)
	if dir == "" {
		t.Skipf("no comparison with Ceph: %s is not set (make ceph-up ceph-test sets it)", rigVariable)
	}
	files := cluster.Files{Config: filepath.Join(dir, "config.json"), Keys: filepath.Join(dir, "keys")}
	ids, err := files.IDs()
	if err != nil {
		t.Fatal(err)
	}
	config, err := files.Read(ids[0])
	if err != nil {
		t.Fatal(err)
	}
	// The first client fences the second: it is the administrator.
	admin := config
	admin.User, admin.Key = "admin", adminKey(t, dir)
	c, second := realConnection(t, admin), realConnection(t, config)
	w := &world{
		cluster: c, images: make(map[string]ceph.Image), pool: realPool(t, c, "volumes"), other: realPool(t, c, "other"),
		second: realPool(t, second, "volumes"),
		prefix: strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name())) + "-",
	}
	cleanUp(t, w)
	t.Cleanup(func() { cleanUp(t, w) })
	return w
}

func adminKey(t *testing.T, dir string) string {
	t.Helper()
	keyring, err := os.ReadFile(filepath.Join(dir, "keyring.client.admin"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(keyring), "[client.admin]")
	_, key, _ := strings.Cut(section, "key = ")
	key, _, _ = strings.Cut(key, "\n")
	return strings.TrimSpace(key)
}

func realConnection(t *testing.T, config cluster.Cluster) ceph.Cluster {
	t.Helper()
	c, err := librbd.Dialer{}.Connect(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func realPool(t *testing.T, c ceph.Cluster, name string) ceph.Pool {
	t.Helper()
	pool, err := c.Pool(name, "")
	if err != nil {
		t.Fatal(err)
	}
	return pool
}

// cleanUp removes the images of the world, clones before their sources.
func cleanUp(t *testing.T, w *world) {
	t.Helper()
	for range 5 {
		left := 0
		for _, pool := range []ceph.Pool{w.pool, w.other} {
			names, err := pool.List()
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range names {
				if !strings.HasPrefix(name, w.prefix) {
					continue
				}
				left++
				removeAll(pool, name)
			}
		}
		if left == 0 {
			return
		}
	}
	t.Errorf("images with the prefix %s are left", w.prefix)
}

func removeAll(pool ceph.Pool, name string) {
	if im, err := pool.Open(name, false); err == nil {
		snapshots, _ := im.Snapshots() //nolint:errcheck // the caller repeats it
		for _, s := range snapshots {
			_ = im.RemoveSnapshot(s.Name) //nolint:errcheck // as above
		}
		_ = im.Close() //nolint:errcheck // as above
	}
	_ = pool.Remove(name) //nolint:errcheck // as above
}
