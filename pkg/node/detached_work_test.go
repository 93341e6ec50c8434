package node

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// Options.Detached lists each step that continues after its call, by volume and name, until it
// ends: a plugin that is stopped waits for it.
func TestDetachedStepsAreListed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTestNode(t, mountCapability("ext3"))
		b.opts.Detached = new(operation.Tracker)
		d := b.add(b.id, volume.GiB)
		d.content = filesystem.Signature{
			State: filesystem.StateFormatted, IsComplete: true, Type: filesystem.TypeExt3, Size: volume.GiB,
		}
		checkDetached := func(what string, slow *chan struct{}, call func(context.Context) error) {
			t.Helper()
			*slow = make(chan struct{})
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			volumetest.WantKind(t, call(ctx), volume.KindDeadline, "still under way")
			if known := b.opts.Detached.List(); len(known) != 1 || known[0].ID != b.id ||
				!strings.HasPrefix(known[0].What, what) {
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
		checkDetached("checking", &b.holdCheck, b.stage)
		if err := b.publish(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		d.backendSize = 2 * volume.GiB
		checkDetached("growing", &b.holdGrow, func(ctx context.Context) error {
			_, err := b.expand(ctx, 2*volume.GiB)
			return err
		})
		checkDetached("unmounting", &b.holdUnmount, b.unpublish)
		checkDetached("unmounting", &b.holdUnmount, b.unstage)
	})
}

// A growth cannot be interrupted. It continues after its call and keeps the volume lock; the retry
// finds it done. Pods start meanwhile.
func TestDetachedGrowthKeepsTheVolumeLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTestNode(t, mountCapability("ext4"))
		d := b.stageAndPublish(t, volume.GiB)
		d.backendSize = 2 * volume.GiB
		b.holdGrow, b.growStarted = make(chan struct{}), make(chan struct{})
		short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err := b.expand(short, 2*volume.GiB)
		volumetest.WantKind(t, err, volume.KindDeadline, "still under way")
		<-b.growStarted
		b.mu.Lock()
		b.growStarted = nil
		b.mu.Unlock()

		unstaging, cancel2 := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel2()
		volumetest.WantKind(t, b.unstage(unstaging), volume.KindDeadline, "another operation")
		if err := errors.Join(b.unpublish(t.Context()), b.publish(t.Context(), false)); err != nil {
			t.Errorf("a growth keeps pods from their volume: %v", err)
		}

		retry := make(chan error, 1)
		go func() { _, err := b.expand(t.Context(), 2*volume.GiB); retry <- err }()
		close(b.holdGrow)
		if err := <-retry; err != nil {
			t.Fatalf("the retry: %v", err)
		}
		if d.content.Size != 2*volume.GiB {
			t.Errorf("the filesystem has %s", d.content.Size)
		}
	})
}

// luksFormat and luksOpen take a second, or longer on a loaded node: they continue after the call,
// and a retry waits for them.
func TestDetachedEncryptionIsNotRepeated(t *testing.T) {
	for name, set := range map[string]func(b *testNode, c chan struct{}){
		"making the LUKS2 header":      func(b *testNode, c chan struct{}) { b.holdLUKSFormat = c },
		"opening the encrypted volume": func(b *testNode, c chan struct{}) { b.holdLUKSOpen = c },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newEncryptedTestNode(t, mountCapability("ext4"))
				d := b.add(b.id, volume.GiB)
				slow := make(chan struct{})
				set(b, slow)
				ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
				defer cancel()
				volumetest.WantKind(t, b.stage(ctx), volume.KindDeadline, name)
				if !d.connected {
					t.Error("the disk was taken from under cryptsetup")
				}
				close(slow)
				synctest.Wait()
				if err := b.stage(t.Context()); err != nil || b.countCalls("format") != 1 || len(b.mounts) != 1 {
					t.Errorf("the retry: %v", err)
				}
			})
		})
	}
}

// mkfs of a large ext3 takes longer than a call. A retry neither begins it again nor runs it a
// second time.
func TestDetachedFormatIsNotRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTestNode(t, mountCapability("ext3"))
		b.add(b.id, volume.GiB)
		b.holdFormat = make(chan struct{})
		for range 2 {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			t.Cleanup(cancel)
			volumetest.WantKind(t, b.stage(ctx), volume.KindDeadline)
		}
		done := make(chan error, 1)
		go func() { done <- b.stage(t.Context()) }()
		close(b.holdFormat)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if n := b.countCalls("format"); n != 1 || len(b.mounts) != 1 {
			t.Errorf("formatted %d times, %d mounts", n, len(b.mounts))
		}
	})
}

// A slow step continues after its call, keeps the volume lock, and is not started again by a retry.
func TestDetachedStepKeepsTheVolumeLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTestNode(t, mountCapability("ext3"))
		b.add(b.id, volume.GiB).content = filesystem.Signature{
			State: filesystem.StateFormatted, IsComplete: true, Type: filesystem.TypeExt3, Size: volume.GiB,
		}
		try := func(call func(context.Context) error) error {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			return call(ctx)
		}
		finish := func(slow chan struct{}, call func(context.Context) error) {
			t.Helper()
			done := make(chan error, 1)
			go func() { done <- call(t.Context()) }()
			close(slow)
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
		b.holdCheck = make(chan struct{})
		volumetest.WantKind(t, try(b.stage), volume.KindDeadline, "checking")
		volumetest.WantKind(t, try(b.stage), volume.KindDeadline, "another operation")
		finish(b.holdCheck, b.stage)
		if n := b.countCalls("check"); n != 2 || len(b.mounts) != 1 {
			t.Errorf("checked %d times, mounts %v", n, b.mounts)
		}
		b.holdUnmount = make(chan struct{})
		volumetest.WantKind(t, try(b.unstage), volume.KindDeadline, "unmounting")
		volumetest.WantKind(t, try(b.stage), volume.KindDeadline, "another operation")
		finish(b.holdUnmount, b.unstage)
		if len(b.mounts) != 0 {
			t.Errorf("mounts %v", b.mounts)
		}
	})
}

// A format that continues after its call needs the disk.
func TestDetachedFormatKeepsTheDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTestNode(t, mountCapability("ext3"))
		d := b.add(b.id, volume.GiB)
		b.holdFormat = make(chan struct{})
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		volumetest.WantKind(t, b.stage(ctx), volume.KindDeadline)
		if !d.connected {
			t.Error("the device was taken from under mkfs")
		}
		close(b.holdFormat)
		if err := b.stage(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
