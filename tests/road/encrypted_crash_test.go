package road

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/growvol/growvol/tests/co"
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
				v := encrypted(t, d, fmt.Sprintf("%s-%d", name(t), i), gib, co.Mount(fstype), nil)
				must(t, d.Attach(ctx, v))
				cut := func(what string, longest time.Duration, op func() error) {
					t.Helper()
					if killDuring(t, d, time.Duration(moments.Int64N(int64(longest))), op) {
						cuts[what]++
					}
					if err := retried(ctx, op); err != nil {
						t.Fatalf("%s again after a crash: %v", what, err)
					}
				}
				cut("stage", 4*time.Second, func() error { return d.Stage(ctx, v) })
				wantMappings(t, 1)
				cut("publish", 20*time.Millisecond, func() error { return d.Publish(ctx, v) })
				w := co.StartWriter(ctx, v.Target, 10<<20, time.Millisecond)
				must(t, d.ExpandController(ctx, v, 2*gib))
				cut("expand", 200*time.Millisecond, func() error { _, err := d.ExpandNode(ctx, without(v), 2*gib); return err })
				wantGrown(t, v, 2*gib-luksHeader)
				must(t, w.Stop())
				cut("unpublish", 20*time.Millisecond, func() error { return d.Unpublish(ctx, v) })
				cut("unstage", 150*time.Millisecond, func() error { return d.Unstage(ctx, v) })
				wantMappings(t, 0)
				cut("stage again", 2*time.Second, func() error { return d.Stage(ctx, v) })
				must(t, d.Publish(ctx, v))
				get(w.Verify(v.Target))(t)
				dev := source(t, v.Staging)
				must(t, d.Unpublish(ctx, v))
				unmount(t, v.Staging)
				fsck(t, fstype, dev.Path)
				must(t, d.Unstage(ctx, v))
				must(t, d.Detach(ctx, v))
				must(t, d.Delete(ctx, v))
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
	if found := get(filepath.Glob("/sys/block/dm-*"))(t); len(found) != n {
		t.Fatalf("mappings %v, want %d", found, n)
	}
}

// A volume that is deleted by force while it is staged: unstage closes the
// mapping and frees the disk all the same.
func TestUnstageOfADeletedEncryptedVolume(t *testing.T) {
	d, ctx := deploy(t), t.Context()
	v := encrypted(t, d, name(t), gib, co.Mount("ext4"), nil)
	must(t, d.Use(ctx, v))
	must(t, os.RemoveAll(filepath.Dir(backingFile(d, v))))
	must(t, d.Unpublish(ctx, v))
	must(t, d.Unstage(ctx, v))
	must(t, d.Unstage(ctx, v))
	wantMappings(t, 0)
}
