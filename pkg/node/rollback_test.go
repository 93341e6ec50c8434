package node

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/luks"
	"github.com/growvol/growvol/pkg/volume"
)

// failAfter lets a call succeed n times, and then fail.
func (b *testNode) failAfter(call string, n int, err error) {
	b.hooks[call] = func() {
		if n--; n < 0 {
			b.fail[call] = err
		}
	}
}

func (b *testNode) wantNothingLeft(t *testing.T, d *fakeDisk) {
	t.Helper()
	if len(b.mounts) != 0 || d.hasMapping() || d.openHandles+d.luks.openHandles != 0 {
		t.Errorf("mounts %+v, mapping %t, %d and %d open descriptors", b.mounts, d.hasMapping(), d.openHandles, d.luks.openHandles)
	}
	if left, err := b.records.List(t.Context()); err != nil || len(left) != 0 {
		t.Errorf("records %+v, %v", left, err)
	}
}

// A disk that is not verified is closed again, or it could not be disconnected.
func TestStageOfADiskThatIsNotVerifiedLeavesNothing(t *testing.T) {
	for _, kind := range []volume.Kind{volume.KindPrecondition, volume.KindDeadline, volume.KindInternal} {
		b := newTestNode(t, mountCapability("ext4"))
		d := b.add(b.id, volume.GiB)
		b.fail["verify"] = volume.Errorf(kind, "not verified")
		wantKind(t, b.stage(t.Context()), kind, "not verified")
		b.wantNothingLeft(t, d)
		if d.connected {
			t.Errorf("%s: it stays connected", kind)
		}
	}
}

// A disk that a hypervisor has plugged in is there before the stage and after
// it. What the failed stage has mounted and recorded goes all the same: after
// an error that it takes for final, kubelet does not unstage.
func TestStageOfAPluggedDiskThatFailsLeavesNothing(t *testing.T) {
	for name, prepare := range map[string]func(*testNode){
		"at the mount":        func(b *testNode) { b.fail["mount"] = volume.Errorf(volume.KindPrecondition, "bad superblock") },
		"after the mount":     func(b *testNode) { b.fail["await"] = volume.Errorf(volume.KindInternal, "input/output error") },
		"at the format":       func(b *testNode) { b.fail["check"] = volume.Errorf(volume.KindPrecondition, "run e2fsck") },
		"at the verification": func(b *testNode) { b.failAfter("verify", 1, volume.Errorf(volume.KindPrecondition, "another volume")) },
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

// What may pass is tried again or unstaged by kubelet, and stays until then.
func TestStageOfAPluggedDiskThatIsToBeRetriedStays(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	d := b.add(b.id, volume.GiB)
	d.content, d.connected, d.staysPlugged, d.deviceSize = ext4Signature(), true, true, volume.GiB
	b.fail["grow"] = volume.Errorf(volume.KindDeadline, "is still being grown")
	wantKind(t, b.stage(t.Context()), volume.KindDeadline)
	if left, err := b.records.List(t.Context()); len(b.mounts) != 1 || err != nil || len(left) != 1 {
		t.Errorf("mounts %+v, records %+v, %v", b.mounts, left, err)
	}
	delete(b.fail, "grow")
	if err := errors.Join(b.stage(t.Context()), b.unstage(t.Context())); err != nil {
		t.Fatal(err)
	}
	b.wantNothingLeft(t, d)
}

// The same for a plugged disk that is encrypted: the mapping goes too, and what
// may pass closes it as well, unless its filesystem stays mounted.
func TestStageOfAPluggedEncryptedDiskThatFails(t *testing.T) {
	later := volume.Errorf(volume.KindDeadline, "no answer")
	for name, c := range map[string]struct {
		call            string
		err             error
		mapped, records int
	}{
		"at the mount":                {"mount", volume.Errorf(volume.KindPrecondition, "bad superblock"), 0, 0},
		"after the mount":             {"grow", volume.Errorf(volume.KindUnavailable, "busy"), 1, 1},
		"for good after the mount":    {"await", volume.Errorf(volume.KindInternal, "input/output error"), 0, 0},
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
			wantKind(t, b.stage(t.Context()), volume.KindOf(c.err))
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

// A stage that is refused changes nothing of what is known of the one before:
// its volume would no longer grow with its device.
func TestRefusedStageLeavesTheRecordAlone(t *testing.T) {
	for name, capability := range map[string]*csi.VolumeCapability{"read-only": mountCapability("ext4", "ro"), "another type": mountCapability("xfs"), "raw": blockCapability()} {
		t.Run(name, func(t *testing.T) {
			b := newTestNode(t, mountCapability("ext4"))
			d := b.stageAndPublish(t, volume.GiB)
			before, err := b.records.Read(b.id)
			if err != nil || before.ID != b.id {
				t.Fatalf("record %+v, %v", before, err)
			}
			other := *b
			other.capability = capability
			if err := other.stage(t.Context()); err == nil {
				t.Fatal("staged in two ways")
			}
			after, err := b.records.Read(b.id)
			if err != nil || after != before {
				t.Errorf("the record is now %+v, was %+v (%v)", after, before, err)
			}
			d.backendSize, d.deviceSize = 2*volume.GiB, 2*volume.GiB
			if _, err := b.growToDevice(t.Context(), b.id); err != nil || d.content.Size != 2*volume.GiB {
				t.Errorf("grown to %s, %v", d.content.Size, err)
			}
		})
	}
}

// An unmount that outlives the retreat keeps pods off until it is done.
func TestRetreatThatOutlivesItsTimeKeepsPodsOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTestNode(t, mountCapability("ext4"))
		d := b.add(b.id, volume.GiB)
		d.content = ext4Signature()
		b.fail["await"] = volume.Errorf(volume.KindInternal, "input/output error")
		b.holdUnmount = make(chan struct{})
		wantKind(t, b.stage(t.Context()), volume.KindInternal)
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

// contextWithTimeout ends soon.
func contextWithTimeout(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

// What somebody has begun to use meanwhile is not taken from under them.
func TestRetreatLeavesAVolumeInUseConnected(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	d := b.add(b.id, volume.GiB)
	d.content = ext4Signature()
	b.fail["check"] = volume.Errorf(volume.KindPrecondition, "run e2fsck")
	b.hooks["check"] = func() { b.addMount("/elsewhere", nodeMountOf(d)) }
	wantKind(t, b.stage(t.Context()), volume.KindPrecondition, "e2fsck")
	if !d.connected {
		t.Error("disconnected from under its user")
	}
}
