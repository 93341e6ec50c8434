package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/must"
)

// encryptedCrashes is what crashes is for encrypted volumes, whose operations take
// twice as long.
const encryptedCrashes = 4

// The node plugin is killed in the middle of operations on an encrypted
// volume, also while cryptsetup runs: the next call completes them. The header
// and the filesystem are made once, one mapping is open, no byte is lost.
func TestEncryptedNodeKilledInTheMiddle(t *testing.T) {
	for _, fstype := range []string{"ext4"} { // what lies below is the same for all
		t.Run(fstype, func(t *testing.T) {
			d, ctx := deploy(t), t.Context()
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			cuts := map[string]int{}
			moments := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // no secret
			for i := range encryptedCrashes {
				v := createEncrypted(t, d, fmt.Sprintf("%s-%d", volumeName(t), i), gib, csiclient.MountCapability(fstype), nil)
				must.Succeed(t, d.Attach(ctx, v))
				cut := func(what string, longest time.Duration, op func() error) {
					t.Helper()
					if killNodeDuring(t, d, time.Duration(moments.Int64N(int64(longest))), op) {
						cuts[what]++
					}
					if err := retryWhileInUse(ctx, op); err != nil {
						t.Fatalf("%s again after a crash: %v", what, err)
					}
				}
				cut("stage", 4*time.Second, func() error { return d.Stage(ctx, v) })
				wantMappings(t, 1)
				cut("publish", 20*time.Millisecond, func() error { return d.Publish(ctx, v) })
				w := csiclient.StartWriter(ctx, v.Target, 10<<20, time.Millisecond)
				must.Succeed(t, d.ExpandController(ctx, v, 2*gib))
				cut("expand", 200*time.Millisecond, func() error { _, err := d.ExpandNode(ctx, withoutSecrets(v), 2*gib); return err })
				wantSize(t, v, 2*gib-luksHeader)
				must.Succeed(t, w.Stop())
				cut("unpublish", 20*time.Millisecond, func() error { return d.Unpublish(ctx, v) })
				cut("unstage", 150*time.Millisecond, func() error { return d.Unstage(ctx, v) })
				wantMappings(t, 0)
				cut("stage again", 2*time.Second, func() error { return d.Stage(ctx, v) })
				must.Succeed(t, d.Publish(ctx, v))
				must.Value(w.Verify(v.Target))(t)
				dev := mountedDevice(t, v.Staging)
				must.Succeed(t, d.Unpublish(ctx, v))
				unmount(t, v.Staging)
				fsck(t, fstype, dev.Path)
				must.Succeed(t, d.Unstage(ctx, v))
				must.Succeed(t, d.Detach(ctx, v))
				must.Succeed(t, d.Delete(ctx, v))
			}
			t.Logf("of %d operations each were cut short: %v", encryptedCrashes, cuts)
			if cuts["stage"] == 0 || cuts["unstage"] == 0 {
				t.Error("too little was cut short: the kills come too late")
			}
		})
	}
}

func wantMappings(t *testing.T, n int) {
	t.Helper()
	if found := must.Value(filepath.Glob("/sys/block/dm-*"))(t); len(found) != n {
		t.Fatalf("mappings %v, want %d", found, n)
	}
}

// A volume that is deleted by force while it is staged: unstage closes the
// mapping and frees the disk all the same.
func TestUnstageClosesTheMappingOfADeletedVolume(t *testing.T) {
	d, ctx := deploy(t), t.Context()
	v := createEncrypted(t, d, volumeName(t), gib, csiclient.MountCapability("ext4"), nil)
	must.Succeed(t, d.Use(ctx, v))
	must.Succeed(t, os.RemoveAll(filepath.Dir(backingFile(d, v))))
	must.Succeed(t, d.Unpublish(ctx, v))
	must.Succeed(t, d.Unstage(ctx, v))
	must.Succeed(t, d.Unstage(ctx, v))
	wantMappings(t, 0)
}
