//go:build ceph

package librbd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/growvol/growvol/pkg/rbd/cluster"
	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
)

// This file connects the tests to a real Ceph, that of tests/ceph. They run in its network
// namespace.

// rigVariable is the environment variable with the state directory of the rig.
const rigVariable = "GROWVOL_CEPH_DIR"

// rigDir skips the test unless there is a rig.
func rigDir(t *testing.T) string {
	t.Helper()
	dir := os.Getenv(rigVariable)
	if dir == "" {
		t.Skipf("no Ceph: %s is not set (make ceph-up ceph-test sets it)", rigVariable)
	}
	return dir
}

// rigConfig returns the configuration of the rig's cluster.
func rigConfig(t *testing.T) cluster.Cluster {
	t.Helper()
	dir := rigDir(t)
	files := cluster.Files{Config: filepath.Join(dir, "config.json"), Keys: filepath.Join(dir, "keys")}
	ids, err := files.IDs()
	if err != nil {
		t.Fatal(err)
	}
	c, err := files.Read(ids[0])
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// adminConfig is rigConfig with the user and the key of the rig's administrator.
func adminConfig(t *testing.T) cluster.Cluster {
	t.Helper()
	c := rigConfig(t)
	keyring, err := os.ReadFile(filepath.Join(rigDir(t), "keyring.client.admin"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(keyring), "[client.admin]")
	_, key, _ := strings.Cut(section, "key = ")
	key, _, _ = strings.Cut(key, "\n")
	c.User, c.Key = "admin", strings.TrimSpace(key)
	return c
}

// connect returns a connection that ends with the test.
func connect(t *testing.T, c cluster.Cluster) *connection {
	t.Helper()
	made, err := Dialer{}.Connect(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(made.Close)
	return made.(*connection) //nolint:forcetypeassert,errcheck // of this package
}

// testPool returns a pool of the rig and a prefix for the names of the test. All images and objects
// with the prefix are removed afterward.
func testPool(t *testing.T, c *connection) (p *pool, prefix string) {
	t.Helper()
	opened, err := c.Pool("volumes", "")
	if err != nil {
		t.Fatal(err)
	}
	p = opened.(*pool) //nolint:forcetypeassert,errcheck // of this package
	prefix = strings.ToLower(strings.NewReplacer("/", "-", " ", "-").Replace(t.Name())) + "-"
	remove := func() { removeImages(t, p, prefix) }
	remove() // what a test that was killed has left
	t.Cleanup(remove)
	return p, prefix
}

// removeImages removes the images with the prefix: clones before their sources.
func removeImages(t *testing.T, p *pool, prefix string) {
	t.Helper()
	for range 5 {
		names, err := p.List()
		if err != nil {
			t.Error(err)
			return
		}
		left := 0
		for _, name := range names {
			if !strings.HasPrefix(name, prefix) {
				continue
			}
			left++
			removeImage(p, name)
		}
		if left == 0 {
			return
		}
	}
	t.Errorf("images with the prefix %s are left", prefix)
}

// removeImage removes an image with its snapshots if nothing depends on it; its caller looks again.
func removeImage(p *pool, name string) {
	if opened, err := p.Open(name, false); err == nil {
		snapshots, _ := opened.Snapshots()
		for _, s := range snapshots {
			_ = opened.RemoveSnapshot(s.Name)
		}
		_ = opened.Close()
	}
	_ = p.Remove(name)
}

// layering are the image features of the driver's default.
func layering() ceph.ImageOptions {
	return ceph.ImageOptions{Features: []string{"layering", "exclusive-lock"}}
}
