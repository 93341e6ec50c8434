package node

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/volume"
)

// TestConcurrentCallsDoNoHarm runs random calls for two volumes, several at a time, with paths of
// another volume or of another program, raw and mounted, and with too short timeouts. Whatever the
// calls return: no foreign mount is touched, no disk is taken from its user, no disk is raw and
// mounted at the same time, no two calls wait for each other for ever, and in the end both volumes
// can be unstaged.
func TestConcurrentCallsDoNoHarm(t *testing.T) {
	requireDeviceNodes(t)
	for range 3 {
		seed := rand.Uint64()
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := newConcurrentCalls(t)
			var wg sync.WaitGroup
			for worker := range uint64(6) {
				wg.Go(func() {
					dice := rand.New(rand.NewPCG(seed, worker)) //nolint:gosec // no secret
					for range 150 {
						r.call(t.Context(), dice)
					}
				})
			}
			wg.Wait()
			r.checkEnd(t)
		})
	}
}

// concurrentCalls is a machine with two volumes and foreign mounts.
type concurrentCalls struct {
	*testNode

	ids, stagings, targets []string
	foreign                []filesystem.Mount
}

func newConcurrentCalls(t *testing.T) *concurrentCalls {
	t.Helper()
	b := newTestNode(t, nil)
	r := &concurrentCalls{testNode: b, ids: []string{"vol-1", "publish:vol-1", "nobody's"}}
	dir := t.TempDir()
	for _, id := range r.ids[:2] {
		b.add(id, volume.GiB)
	}
	other := b.add("foreign", volume.GiB)
	other.connected = true
	for i := range 2 {
		r.stagings = append(r.stagings, filepath.Join(dir, fmt.Sprint("staging-", i)))
		r.targets = append(r.targets, filepath.Join(dir, fmt.Sprint("target-", i)))
	}
	for name, m := range map[string]filesystem.Mount{
		"disk": mountOf(other), "tmpfs": tmpfs("/"), "dir": deletedMount(tmpfs("/dir")),
	} {
		path := filepath.Join(dir, name)
		r.foreign = append(r.foreign, b.addMount(path, m))
		r.targets = append(r.targets, path)
	}
	r.stagings = append(r.stagings, r.targets[2])
	return r
}

// call makes one call, most often with the paths that belong to the volume.
func (r *concurrentCalls) call(ctx context.Context, dice *rand.Rand) {
	i := dice.IntN(2)
	one := *r.testNode
	one.id, one.staging, one.target = r.ids[i], r.stagings[i], r.targets[i]
	if dice.IntN(5) == 0 {
		one.id, one.staging, one.target = r.ids[dice.IntN(3)], r.stagings[dice.IntN(3)], r.targets[dice.IntN(len(r.targets))]
	}
	one.capability = []*csi.VolumeCapability{mountCapability("ext4"), blockCapability()}[dice.IntN(2)]
	timeout := time.Minute
	if dice.IntN(4) == 0 {
		timeout = time.Duration(dice.IntN(300)) * time.Microsecond
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	switch dice.IntN(6) {
	case 0, 1:
		_ = one.stage(ctx)
	case 2, 3:
		_ = one.publish(ctx, dice.IntN(4) == 0)
	case 4:
		_ = one.unpublish(ctx)
	default:
		_ = one.unstage(ctx)
	}
	if dice.IntN(8) == 0 {
		_, _ = one.expand(ctx, volume.GiB)
		_, _ = one.stats(one.target)
	}
}

// checkEnd unstages both volumes, and checks that the calls did no harm.
func (r *concurrentCalls) checkEnd(t *testing.T) {
	t.Helper()
	for i, id := range r.ids[:2] {
		one := *r.testNode
		one.id = id
		for j := range 2 { // a call with crossed paths may have published there
			one.target, one.staging = r.targets[j], r.stagings[j]
			_ = one.unpublish(t.Context())
			_ = one.unstage(t.Context())
		}
		one.target, one.staging = r.targets[i], r.stagings[i]
		if err := one.unpublish(t.Context()); err != nil && !volume.IsKind(err, volume.KindPrecondition) {
			t.Errorf("unpublish %s: %v", id, err)
		}
	}
	for i, id := range r.ids[:2] {
		one := *r.testNode
		one.id, one.staging, one.target = id, r.stagings[i], r.targets[i]
		if err := one.unpublish(t.Context()); err != nil {
			t.Errorf("unpublish %s again: %v", id, err)
		}
		if err := one.unstage(t.Context()); err != nil {
			t.Errorf("unstage %s: %v", id, err)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.violations) > 0 {
		t.Errorf("harm was done: %q", slices.Compact(r.violations))
	}
	if len(r.mounts) != len(r.foreign) {
		t.Errorf("mounts %+v, want those of others alone: %+v", r.mounts, r.foreign)
	}
	for i, m := range r.foreign {
		if i < len(r.mounts) && r.mounts[i].ID != m.ID {
			t.Errorf("what is at %s has gone", m.MountPoint)
		}
	}
	for _, id := range r.ids[:2] {
		if r.disks[id].connected {
			t.Errorf("%s is still connected", id)
		}
	}
	counts := map[string]int{}
	for _, c := range r.calls {
		counts[c]++
	}
	for _, call := range []string{"mount", "bind", "unmount", "disconnect", "format"} {
		if counts[call] == 0 {
			t.Errorf("no %s was ever called: the calls are too few, or all refused", call)
		}
	}
}
