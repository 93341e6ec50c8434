package node

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/growvol/growvol/pkg/luks"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// A transient failure keeps the mount for the retry.
func TestTransientFailureKeepsTheMount(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	d := b.add(b.id, volume.GiB)
	d.content = ext4Signature()
	b.fail["grow"] = volume.Errorf(volume.KindDeadline, "is still being grown")
	volumetest.WantKind(t, b.stage(t.Context()), volume.KindDeadline)
	if len(b.mounts) != 1 || b.countCalls("unmount") != 0 || !d.connected {
		t.Errorf("mounts %+v, connected %t", b.mounts, d.connected)
	}
}

// A failed call closes the mapping that it has opened. A mapping that was open before stays: it may
// be staged as a raw device.
func TestRollbackClosesOnlyTheMappingOfItsCall(t *testing.T) {
	b := newEncryptedTestNode(t, blockCapability())
	d := b.add(b.id, volume.GiB)
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.capability = mountCapability("ext4")
	volumetest.WantKind(t, b.stage(t.Context()), volume.KindPrecondition, "random")
	if !d.connected || b.mappedDisks[b.id] != d {
		t.Errorf("connected %t, mapping %t: a raw volume was unstaged", d.connected, b.mappedDisks[b.id] == d)
	}
	// Connected before this call, as after a crash, but without the mapping.
	d.mappingSize = 0
	delete(b.mappedDisks, b.id)
	volumetest.WantKind(t, b.stage(t.Context()), volume.KindPrecondition, "random")
	if !d.connected || b.mappedDisks[b.id] != nil {
		t.Errorf("connected %t, mapping %t", d.connected, b.mappedDisks[b.id] == d)
	}
}

// A mapping whose disk is gone has no user: the mapping that replaces it is of this call.
func TestRollbackClosesAMappingThatReplacedAGoneOne(t *testing.T) {
	b := newEncryptedTestNode(t, mountCapability("ext4"))
	d, gone := b.add(b.id, volume.GiB), b.add("before", volume.GiB)
	b.encrypt(gone)
	b.fail["format"] = errors.New("mkfs is missing")
	if err := b.stage(t.Context()); err == nil {
		t.Fatal("staged")
	}
	wantClosed(t, b, d)
	b.encrypt(gone)
	delete(b.fail, "format")
	if err := b.stage(t.Context()); err != nil || b.mappedDisks[b.id] != d {
		t.Errorf("%v; the mapping is that of the disk: %t", err, b.mappedDisks[b.id] == d)
	}
}

// The descriptors of a failed call must not keep its rollback from closing the mapping.
func TestStageThatCannotVerifyItsMappingClosesIt(t *testing.T) {
	b := newEncryptedTestNode(t, mountCapability("ext4"))
	d := b.add(b.id, volume.GiB)
	opened := false
	b.hooks["luks-open"] = func() { opened = true }
	b.hooks["verify"] = func() {
		delete(b.fail, "verify")
		if opened {
			b.fail["verify"], opened = volume.Errorf(volume.KindDeadline, "no answer"), false
		}
	}
	volumetest.WantKind(t, b.stage(t.Context()), volume.KindDeadline, "no answer")
	wantClosed(t, b, d)
}

// The answer comes before the deadline of the caller, whatever the rollback waits for.
func TestRollbackEndsBeforeTheDeadlineOfTheCall(t *testing.T) {
	for _, timeout := range []time.Duration{100 * time.Millisecond, time.Second, time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			b := newTestNode(t, mountCapability("ext4"))
			d := b.add(b.id, volume.GiB)
			b.fail["format"] = volume.Errorf(volume.KindPrecondition, "mkfs is missing")
			publish, err := b.lockPublish(t.Context(), b.id) // a publication that hangs
			if err != nil {
				t.Fatal(err)
			}
			defer publish.Release()
			start := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			defer cancel()
			volumetest.WantKind(t, b.stage(ctx), volume.KindPrecondition, "mkfs is missing")
			if took := time.Since(start); took >= timeout || took > rollbackTimeout || !d.connected {
				t.Errorf("answered after %s of %s; connected %t", took, timeout, d.connected)
			}
		})
	}
}

// failAfter lets a call succeed n times, then fail.
func (b *testNode) failAfter(call string, n int, err error) {
	b.hooks[call] = func() {
		if n--; n < 0 {
			b.fail[call] = err
		}
	}
}

// wantNothingLeft fails the test if mounts, mappings, descriptors or records are left.
func (b *testNode) wantNothingLeft(t *testing.T, d *fakeDisk) {
	t.Helper()
	if len(b.mounts) != 0 || d.hasMapping() || d.openHandles+d.luks.openHandles != 0 {
		t.Errorf(
			"mounts %+v, mapping %t, %d and %d open descriptors", b.mounts, d.hasMapping(), d.openHandles, d.luks.openHandles,
		)
	}
	if left, err := b.records.List(t.Context()); err != nil || len(left) != 0 {
		t.Errorf("records %+v, %v", left, err)
	}
}

// A disk that is not verified is closed: an open disk cannot be disconnected.
func TestFailedVerificationLeavesNothing(t *testing.T) {
	for _, kind := range []volume.Kind{volume.KindPrecondition, volume.KindDeadline, volume.KindInternal} {
		b := newTestNode(t, mountCapability("ext4"))
		d := b.add(b.id, volume.GiB)
		b.fail["verify"] = volume.Errorf(kind, "not verified")
		volumetest.WantKind(t, b.stage(t.Context()), kind, "not verified")
		b.wantNothingLeft(t, d)
		if d.connected {
			t.Errorf("%s: it stays connected", kind)
		}
	}
}

// A disk that a hypervisor has plugged in is connected before and after the stage. What the failed
// stage has mounted and recorded is still removed: kubelet does not unstage after an error that it
// takes for final.
func TestFailedStageOfAPluggedDiskLeavesNothing(t *testing.T) {
	for name, prepare := range map[string]func(*testNode){
		"at the mount": func(b *testNode) {
			b.fail["mount"] = volume.Errorf(volume.KindPrecondition, "bad superblock")
		},
		"after the mount": func(b *testNode) {
			b.fail["await"] = volume.Errorf(volume.KindInternal, "input/output error")
		},
		"at the format": func(b *testNode) { b.fail["check"] = volume.Errorf(volume.KindPrecondition, "run e2fsck") },
		"at the verification": func(b *testNode) {
			b.failAfter("verify", 1, volume.Errorf(volume.KindPrecondition, "another volume"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newTestNode(t, mountCapability("ext4"))
			d := b.add(b.id, volume.GiB)
			d.content, d.connected, d.staysPlugged, d.deviceSize = ext4Signature(), true, true, volume.GiB
			prepare(b)
			if err := b.stage(t.Context()); err == nil {
				t.Fatal("staged")
			}
			b.wantNothingLeft(t, d)
		})
	}
}

// kubelet retries or unstages after a transient failure: mount and record stay until then.
func TestTransientFailureKeepsMountAndRecord(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	d := b.add(b.id, volume.GiB)
	d.content, d.connected, d.staysPlugged, d.deviceSize = ext4Signature(), true, true, volume.GiB
	b.fail["grow"] = volume.Errorf(volume.KindDeadline, "is still being grown")
	volumetest.WantKind(t, b.stage(t.Context()), volume.KindDeadline)
	if left, err := b.records.List(t.Context()); len(b.mounts) != 1 || err != nil || len(left) != 1 {
		t.Errorf("mounts %+v, records %+v, %v", b.mounts, left, err)
	}
	delete(b.fail, "grow")
	if err := errors.Join(b.stage(t.Context()), b.unstage(t.Context())); err != nil {
		t.Fatal(err)
	}
	b.wantNothingLeft(t, d)
}

// A failed stage closes the mapping of a plugged disk too, unless the failure is transient and the
// filesystem stays mounted.
func TestFailedStageOfAPluggedEncryptedDisk(t *testing.T) {
	later := volume.Errorf(volume.KindDeadline, "no answer")
	for name, c := range map[string]struct {
		call            string
		err             error
		mapped, records int
	}{
		"at the mount":                {"mount", volume.Errorf(volume.KindPrecondition, "bad superblock"), 0, 0},
		"after the mount":             {"grow", volume.Errorf(volume.KindUnavailable, "busy"), 1, 1},
		"final, after the mount":      {"await", volume.Errorf(volume.KindInternal, "input/output error"), 0, 0},
		"at the mount, for a while":   {"mount", later, 0, 1},
		"at the opening":              {"luks-open", volume.Errorf(volume.KindPrecondition, "no key slot"), 0, 0},
		"at the opening, for a while": {"luks-open", later, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			b := newEncryptedTestNode(t, mountCapability("ext4"))
			d := b.add(b.id, volume.GiB)
			d.content, d.connected, d.staysPlugged, d.deviceSize = ext4Signature(), true, true, volume.GiB
			d.luks.header, d.luks.passphrase = luksHeader(luks.HeaderSound), secret
			b.fail[c.call] = c.err
			volumetest.WantKind(t, b.stage(t.Context()), volume.KindOf(c.err))
			left, err := b.records.List(t.Context())
			if err != nil || len(b.mounts) != c.mapped || len(b.mappedDisks) != c.mapped || len(left) != c.records {
				t.Errorf("mounts %+v, %d mappings, records %+v, %v", b.mounts, len(b.mappedDisks), left, err)
			}
			if d.openHandles+d.luks.openHandles != 0 {
				t.Errorf("%d and %d descriptors are still open", d.openHandles, d.luks.openHandles)
			}
			delete(b.fail, c.call)
			if err := errors.Join(b.stage(t.Context()), b.unstage(t.Context())); err != nil {
				t.Fatal(err)
			}
			b.wantNothingLeft(t, d)
		})
	}
}

// An unmount that continues after the rollback keeps pods off until it is done.
func TestDetachedRollbackKeepsPodsOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTestNode(t, mountCapability("ext4"))
		d := b.add(b.id, volume.GiB)
		d.content = ext4Signature()
		b.fail["await"] = volume.Errorf(volume.KindInternal, "input/output error")
		b.holdUnmount = make(chan struct{})
		volumetest.WantKind(t, b.stage(t.Context()), volume.KindInternal)
		if publish, err := b.lockPublish(contextWithTimeout(t), b.id); err == nil {
			publish.Release()
			t.Error("a pod could be given the volume while it is unmounted")
		}
		close(b.holdUnmount)
		synctest.Wait()
		delete(b.fail, "await")
		if err := errors.Join(b.stage(t.Context()), b.unstage(t.Context())); err != nil {
			t.Fatal(err)
		}
		b.wantNothingLeft(t, d)
	})
}

// The rollback does not disconnect a volume that comes into use meanwhile.
func TestRollbackLeavesAVolumeInUseConnected(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	d := b.add(b.id, volume.GiB)
	d.content = ext4Signature()
	b.fail["check"] = volume.Errorf(volume.KindPrecondition, "run e2fsck")
	b.hooks["check"] = func() { b.addMount("/elsewhere", nodeMountOf(d)) }
	volumetest.WantKind(t, b.stage(t.Context()), volume.KindPrecondition, "e2fsck")
	if !d.connected {
		t.Error("disconnected from under its user")
	}
}

// kubelet does not unstage after an error that it takes for final: what this call has mounted goes.
func TestFailureAfterTheMountLeavesNothing(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	d := b.add(b.id, volume.GiB)
	d.content = ext4Signature()
	b.fail["await"] = volume.Errorf(volume.KindInternal, "input/output error")
	volumetest.WantKind(t, b.stage(t.Context()), volume.KindInternal)
	if d.connected || len(b.mounts) != 0 {
		t.Errorf("connected %t, mounts %v", d.connected, b.mounts)
	}
	if left, err := b.records.List(t.Context()); err != nil || len(left) != 0 {
		t.Errorf("records left: %v, %v", left, err)
	}
}

// kubelet never unstages after an error that it takes for final: a volume that stays connected
// could never be detached.
func TestFailedStageDisconnectsTheVolume(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	d := b.add(b.id, volume.GiB)
	b.fail["format"] = volume.Errorf(volume.KindInternal, "mkfs is missing")
	volumetest.WantKind(t, b.stage(t.Context()), volume.KindInternal, "mkfs is missing")
	if d.connected {
		t.Error("the volume is still connected")
	}
	delete(b.fail, "format")
	if err := b.stage(t.Context()); err != nil || !d.connected {
		t.Errorf("staged again: %v, connected %v", err, d.connected)
	}
	// What was staged before stays, in use or not.
	b.capability = mountCapability("xfs")
	volumetest.WantKind(t, b.stage(t.Context()), volume.KindAlreadyExists)
	if !d.connected || len(b.mounts) != 1 {
		t.Errorf("connected %v with %d mounts, want it left alone", d.connected, len(b.mounts))
	}
}

// A raw volume is staged by its connection alone.
func TestFailedStageAsFilesystemLeavesARawVolumeStaged(t *testing.T) {
	b := newTestNode(t, blockCapability())
	d := b.add(b.id, volume.GiB)
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.capability = mountCapability("ext4")
	b.fail["format"] = volume.Errorf(volume.KindPrecondition, "not blank")
	volumetest.WantKind(t, b.stage(t.Context()), volume.KindPrecondition)
	b.capability = blockCapability()
	if err := b.publish(t.Context(), false); err != nil || !d.connected {
		t.Errorf("published: %v, connected %v", err, d.connected)
	}
}
