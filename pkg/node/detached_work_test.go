package node

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/growvol/growvol/pkg/operation"

	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/volume"
)

// Each step that outlives its call is known by volume and name until it ends,
// so that a plugin that is stopped can wait for it.
func TestStepsThatOutliveTheirCallAreKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTestNode(t, mountCapability("ext3"))
		b.opts.Detached = new(operation.Tracker)
		d := b.add(b.id, volume.GiB)
		d.content = filesystem.Signature{State: filesystem.StateFormatted, IsComplete: true, Type: filesystem.TypeExt3, Size: volume.GiB}
		outlived := func(what string, slow *chan struct{}, call func(context.Context) error) {
			t.Helper()
			*slow = make(chan struct{})
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			wantKind(t, call(ctx), volume.KindDeadline, "still under way")
			if known := b.opts.Detached.List(); len(known) != 1 || known[0].ID != b.id || !strings.HasPrefix(known[0].What, what) {
				t.Errorf("known %+v, want one that begins with %q, of %s", known, what, b.id)
			}
			close(*slow)
			if left := b.opts.Detached.Wait(t.Context()); left != nil {
				t.Errorf("left %+v", left)
			}
			if err := call(t.Context()); err != nil {
				t.Errorf("the retry: %v", err)
			}
		}
		outlived("checking", &b.holdCheck, b.stage)
		if err := b.publish(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		d.backendSize = 2 * volume.GiB
		outlived("growing", &b.holdGrow, func(ctx context.Context) error {
			_, err := b.expand(ctx, 2*volume.GiB)
			return err
		})
		outlived("unmounting", &b.holdUnmount, b.unpublish)
		outlived("unmounting", &b.holdUnmount, b.unstage)
	})
}
