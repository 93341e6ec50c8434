package node

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/volume"
)

func TestStageFormatsABlankVolumeOnce(t *testing.T) {
	b := newTestNode(t, mountCapability("xfs"))
	d := b.add(b.id, volume.GiB)
	for range 3 {
		if err := b.stage(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := b.countCalls("format"); n != 1 {
		t.Errorf("formatted %d times", n)
	}
	if len(b.mounts) != 1 || b.mounts[0].MountPoint != b.staging || d.content.Type != filesystem.TypeXFS {
		t.Errorf("mounts %+v, content %s", b.mounts, d.content)
	}
}

func TestStageDefaultsToExt4(t *testing.T) {
	b := newTestNode(t, mountCapability(""))
	d := b.add(b.id, volume.GiB)
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	if d.content.Type != filesystem.TypeExt4 {
		t.Errorf("formatted as %s", d.content.Type)
	}
}

func TestStageTouchesNothingItMustNot(t *testing.T) {
	for name, c := range map[string]struct {
		capability *csi.VolumeCapability
		prepare    func(b *testNode, d *fakeDisk)
		kind       volume.Kind
		words      []string
	}{
		"another filesystem than asked for": {mountCapability("ext4"), func(_ *testNode, d *fakeDisk) {
			d.content = filesystem.Signature{State: filesystem.StateFormatted, IsComplete: true, Type: filesystem.TypeXFS, Size: volume.GiB}
		}, volume.KindPrecondition, []string{"xfs", "ext4", "vol-1"}},
		"foreign data": {mountCapability("ext4"), func(_ *testNode, d *fakeDisk) {
			d.content = filesystem.Signature{State: filesystem.StateForeign, Content: "LUKS encryption", IsRecognized: true}
		}, volume.KindPrecondition, []string{"LUKS"}},
		"an unreadable device": {mountCapability("ext4"), func(b *testNode, _ *fakeDisk) {
			b.fail["probe"] = volume.Errorf(volume.KindInternal, "input/output error")
		}, volume.KindInternal, []string{"input/output error"}},
		"the device of another volume": {mountCapability("ext4"), func(_ *testNode, d *fakeDisk) { d.serial = "vol-2" }, volume.KindPrecondition, []string{"another volume"}},
		"a blank device that is too small": {mountCapability("ext4"), func(_ *testNode, d *fakeDisk) {
			d.connected, d.deviceSize, d.ignoresRescan = true, volume.MiB, true
		}, volume.KindDeadline, []string{"1 MiB", "1 GiB"}},
		"a blank volume asked for read-only": {mountCapability("ext4", "ro"), nil, volume.KindPrecondition, []string{"read-only"}},
		"a filesystem that needs repair": {mountCapability("ext4"), func(b *testNode, d *fakeDisk) {
			d.content = ext4Signature()
			b.fail["check"] = volume.Errorf(volume.KindPrecondition, "run e2fsck")
		}, volume.KindPrecondition, []string{"e2fsck"}},
		"a filesystem type that nobody grows": {mountCapability("ntfs"), nil, volume.KindInvalid, []string{"ntfs"}},
		"a volume that the backend has not":   {mountCapability("ext4"), func(b *testNode, _ *fakeDisk) { delete(b.disks, b.id) }, volume.KindNotFound, nil},
		"a capability without an access type": {&csi.VolumeCapability{AccessMode: mountCapability("").GetAccessMode()}, nil, volume.KindInvalid, nil},
		"a capability without an access mode": {&csi.VolumeCapability{AccessType: mountCapability("").GetAccessType()}, nil, volume.KindInvalid, nil},
		"a raw device that stays too small":   {blockCapability(), func(_ *testNode, d *fakeDisk) { d.connected, d.deviceSize, d.ignoresRescan = true, volume.MiB, true }, volume.KindDeadline, []string{"1 MiB"}},
		"the connector's failure to find disk": {mountCapability("ext4"), func(b *testNode, _ *fakeDisk) {
			b.fail["connect"] = volume.Errorf(volume.KindDeadline, "no disk appeared")
		}, volume.KindDeadline, []string{"no disk"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newTestNode(t, c.capability)
				d := b.add(b.id, volume.GiB)
				if c.prepare != nil {
					c.prepare(b, d)
				}
				content := d.content
				patience := time.Minute
				if c.kind == volume.KindDeadline {
					patience = 50 * time.Millisecond
				}
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				wantKind(t, b.stage(ctx), c.kind, c.words...)
				if d.content != content || len(b.mounts) != 0 {
					t.Errorf("content is now %s, mounts %v", d.content, b.mounts)
				}
			})
		})
	}
}

func ext4Signature() filesystem.Signature {
	return filesystem.Signature{State: filesystem.StateFormatted, IsComplete: true, Type: filesystem.TypeExt4, Size: volume.GiB}
}

func TestStageGrowsToALargerDevice(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	d := b.add(b.id, 4*volume.GiB)
	d.content = ext4Signature()
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	if d.content.Size != 4*volume.GiB {
		t.Errorf("a filesystem of 1 GiB on a clone of 4 GiB is staged with %s", d.content.Size)
	}
}

// Kubernetes sends no NodeExpandVolume for a restore into a larger claim: a
// stage that succeeded on a device that is still short would be the last word.
func TestStageFailsWhileTheDeviceIsShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTestNode(t, mountCapability("ext4"))
		d := b.add(b.id, 4*volume.GiB)
		d.content, d.connected, d.deviceSize, d.ignoresRescan = ext4Signature(), true, volume.GiB, true
		d.conn.ShortRemedy = "attach it again"
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		wantKind(t, b.stage(ctx), volume.KindDeadline, "vol-1", "1 GiB", "4 GiB", "next step: attach it again")
		if d.awaitTimeout < 50*time.Second {
			t.Errorf("waited %s for the device, want nearly all of the call's minute", d.awaitTimeout)
		}
		d.ignoresRescan = false
		if err := b.stage(t.Context()); err != nil || d.content.Size != 4*volume.GiB || len(b.mounts) != 1 {
			t.Errorf("the retry: %v; the filesystem has %s, %d mounts", err, d.content.Size, len(b.mounts))
		}
	})
}

func TestStageFailsWhileAnotherGrowthIsUnderWay(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	d := b.add(b.id, 4*volume.GiB)
	d.content = ext4Signature()
	for _, kind := range []volume.Kind{volume.KindDeadline, volume.KindCanceled, volume.KindInProgress, volume.KindUnavailable} {
		b.fail["grow"] = volume.Errorf(kind, "is still being grown by another request")
		wantKind(t, b.stage(t.Context()), kind, "another request")
	}
	delete(b.fail, "grow")
	if err := b.stage(t.Context()); err != nil || d.content.Size != 4*volume.GiB {
		t.Errorf("the retry: %v; the filesystem has %s", err, d.content.Size)
	}
}

// What needs a person lets the pod have its data, is counted, and is reported
// until it is no longer true.
func TestStageReportsAGrowthThatNeedsAPerson(t *testing.T) {
	for name, failure := range map[string]error{
		"errors recorded":    volume.Errorf(volume.KindPrecondition, "the filesystem has recorded errors"),
		"the format's limit": volume.Errorf(volume.KindOutOfRange, "it can grow to 2 GiB at most"),
		"an unknown errno":   volume.Errorf(volume.KindInternal, "EXT4_IOC_RESIZE_FS: function not implemented"),
	} {
		t.Run(name, func(t *testing.T) {
			b := newTestNode(t, mountCapability("ext4"))
			metrics := b.addMetrics(t)
			d := b.add(b.id, 4*volume.GiB)
			d.content = ext4Signature()
			b.fail["grow"] = failure
			if err := b.stage(t.Context()); err != nil {
				t.Fatalf("not staged: %v", err)
			}
			if err := b.publish(t.Context(), false); err != nil {
				t.Fatal(err)
			}
			key := "growvol_node_growths_total,stage," + volume.KindOf(failure).String()
			if got := metrics()[key]; got != 1 {
				t.Errorf("%s = %g, want 1", key, got)
			}
			c := wantCondition(t, b, reasonFilesystemShort, csi.VolumeHealthErrorType_DEGRADED)
			for _, word := range []string{"1 GiB", "4 GiB", failure.Error()} {
				if !strings.Contains(c.GetMessage(), word) {
					t.Errorf("the condition %q does not mention %q", c.GetMessage(), word)
				}
			}
			_, err := b.expand(t.Context(), 4*volume.GiB)
			wantKind(t, err, volume.KindOf(failure))
			delete(b.fail, "grow")
			if _, err := b.expand(t.Context(), 4*volume.GiB); err != nil {
				t.Fatal(err)
			}
			wantHealthy(t, b)
		})
	}
}

// kubelet does not unstage after an error that it takes for final: what this
// call has mounted goes with it.
func TestStageThatFailsAfterTheMountLeavesNothing(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	d := b.add(b.id, volume.GiB)
	d.content = ext4Signature()
	b.fail["await"] = volume.Errorf(volume.KindInternal, "input/output error")
	wantKind(t, b.stage(t.Context()), volume.KindInternal)
	if d.connected || len(b.mounts) != 0 {
		t.Errorf("connected %t, mounts %v", d.connected, b.mounts)
	}
	if left, err := b.records.List(t.Context()); err != nil || len(left) != 0 {
		t.Errorf("records left: %v, %v", left, err)
	}
}

func TestStageReadOnlyNeitherChecksNorGrows(t *testing.T) {
	capability := mountCapability("ext4")
	capability.AccessMode.Mode = csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY
	b := newTestNode(t, capability)
	b.add(b.id, 4*volume.GiB).content = ext4Signature()
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	if b.countCalls("check")+b.countCalls("grow")+b.countCalls("format") != 0 {
		t.Errorf("calls: %v", b.calls)
	}
	if !b.mounts[0].IsReadOnly() {
		t.Error("mounted for writing")
	}
}

func TestStageRefusesAPathThatIsTaken(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	b.add(b.id, volume.GiB)
	other := b.add("vol-2", volume.GiB)
	other.connected, other.content = true, ext4Signature()
	fakeFilesystems{b.machine}.mount(filesystem.Mount{MountPoint: b.staging, FSType: "ext4", Source: other.path, Device: diskNumberOf(other), Options: []string{"rw"}})
	wantKind(t, b.stage(t.Context()), volume.KindPrecondition, b.staging, "another filesystem")
	if b.countCalls("format") != 0 {
		t.Error("formatted all the same")
	}
}

func TestStageAgainWithOtherCapabilities(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	b.add(b.id, volume.GiB)
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.capability = mountCapability("xfs")
	wantKind(t, b.stage(t.Context()), volume.KindAlreadyExists, "xfs", "ext4")
	b.capability = mountCapability("ext4", "ro")
	wantKind(t, b.stage(t.Context()), volume.KindAlreadyExists, "read-only")
}

// A format that was under way when the plugin died leaves a marker; once the
// filesystem is found complete the marker must go, or a later loss of the
// superblock would be taken for that old half-made format.
func TestStageForgetsAFinishedFormat(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	b.add(b.id, volume.GiB).content = ext4Signature()
	if err := os.MkdirAll(b.opts.StateDir, 0o700); err != nil {
		t.Fatal(err)
	}
	marker := b.formatMarker(b.id)
	if err := os.WriteFile(marker, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(marker); !errors.Is(err, os.ErrNotExist) {
		t.Error("the marker is still there")
	}
}

// mkfs of a large ext3 takes longer than a call. It is not started over with
// each retry, and not twice at once.
func TestStageWhoseFormatOutlivesItsCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTestNode(t, mountCapability("ext3"))
		b.add(b.id, volume.GiB)
		b.holdFormat = make(chan struct{})
		for range 2 {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			t.Cleanup(cancel)
			wantKind(t, b.stage(ctx), volume.KindDeadline)
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

func TestMarkerStaysInTheStateDirectory(t *testing.T) {
	b := newTestNode(t, nil)
	for _, id := range []string{"../../etc/passwd", "..", "a/b", "pool/image@snap", "\x00"} {
		if m := b.formatMarker(id); filepath.Dir(m) != b.opts.StateDir {
			t.Errorf("marker of %q is %q", id, m)
		}
	}
}

// A pod may have the raw device open: mkfs would not notice.
func TestStageRefusesAVolumeThatIsUsedInTheOtherWay(t *testing.T) {
	b := newTestNode(t, blockCapability())
	d := b.stageAndPublish(t, volume.GiB)
	b.capability = mountCapability("ext4")
	wantKind(t, b.stage(t.Context()), volume.KindPrecondition, "raw device", b.target)
	if d.content.State != filesystem.StateBlank {
		t.Errorf("the volume now holds %s", d.content)
	}

	b = newTestNode(t, mountCapability("ext4"))
	b.stageAndPublish(t, volume.GiB)
	b.capability = blockCapability()
	wantKind(t, b.stage(t.Context()), volume.KindPrecondition, "mounted")
}

// A format that was cut short must not be taken up again once the volume was
// anything else.
func TestMarkersAreForgotten(t *testing.T) {
	marked := func(t *testing.T, capability *csi.VolumeCapability) *testNode {
		t.Helper()
		b := newTestNode(t, capability)
		b.add(b.id, volume.GiB)
		if err := errors.Join(os.MkdirAll(b.opts.StateDir, 0o700), os.WriteFile(b.formatMarker(b.id), []byte("{}"), 0o600)); err != nil {
			t.Fatal(err)
		}
		return b
	}
	gone := func(t *testing.T, b *testNode) {
		t.Helper()
		if _, err := os.Stat(b.formatMarker(b.id)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the marker is still there: %v", err)
		}
	}
	t.Run("when the volume is used raw", func(t *testing.T) {
		b := marked(t, blockCapability())
		if err := b.stage(t.Context()); err != nil {
			t.Fatal(err)
		}
		gone(t, b)
	})
	for name, content := range map[string]filesystem.Signature{"blank": {State: filesystem.StateBlank}, "complete": ext4Signature()} {
		t.Run("when the volume leaves the node "+name, func(t *testing.T) {
			b := marked(t, mountCapability("ext4"))
			b.disks[b.id].connected, b.disks[b.id].content = true, content
			if err := b.unstage(t.Context()); err != nil {
				t.Fatal(err)
			}
			gone(t, b)
		})
	}
	t.Run("but not while it is half-made", func(t *testing.T) {
		b := marked(t, mountCapability("ext4"))
		b.disks[b.id].connected, b.disks[b.id].content = true, filesystem.Signature{State: filesystem.StateFormatted, Type: filesystem.TypeXFS}
		if err := b.unstage(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(b.formatMarker(b.id)); err != nil {
			t.Error(err)
		}
	})
}

// A filesystem that has failed is no success, neither for stage nor publish.
func TestFailedFilesystem(t *testing.T) {
	failed := volume.Errorf(volume.KindPrecondition, "the filesystem has shut down")
	b := newTestNode(t, mountCapability("xfs"))
	d := b.stageAndPublish(t, volume.GiB)
	d.mountFailure = failed
	wantKind(t, b.stage(t.Context()), volume.KindPrecondition, "shut down") // a pod still has it
	wantKind(t, b.publish(t.Context(), false), volume.KindPrecondition, "shut down")
	if err := b.unpublish(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.stage(t.Context()); err != nil {
		t.Fatalf("nobody uses it, so it can be checked and mounted anew: %v", err)
	}
	if d.mountFailure != nil || b.countCalls("mount") != 2 || b.countCalls("check") != 1 {
		t.Errorf("dead %v, mounted %d times, checked %d times", d.mountFailure, b.countCalls("mount"), b.countCalls("check"))
	}
}

// The device that only this node reads must be writable for the kernel, which
// replays the journal; what several nodes read must not.
func TestWhenTheDeviceIsReadOnly(t *testing.T) {
	for _, c := range []struct {
		capability *csi.VolumeCapability
		mode       csi.VolumeCapability_AccessMode_Mode
		want       bool
	}{
		{mountCapability("ext4"), csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY, false},
		{mountCapability("ext4"), csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY, true},
		{mountCapability("ext4"), csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER, false},
		{blockCapability(), csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY, true},
	} {
		c.capability.AccessMode.Mode = c.mode
		b := newTestNode(t, c.capability)
		d := b.add(b.id, volume.GiB)
		d.content = ext4Signature()
		if err := b.stage(t.Context()); err != nil {
			t.Fatal(err)
		}
		if d.readOnly != c.want {
			t.Errorf("%v: device read-only %t", c.capability, d.readOnly)
		}
		if !c.want && c.mode != csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER && !b.mounts[0].IsReadOnly() {
			t.Errorf("%v: mounted for writing", c.capability)
		}
	}
}

// What the kernel or a tool takes its time for keeps the volume's lock, and is
// not started again by a retry.
func TestSlowStepsOutliveTheirCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTestNode(t, mountCapability("ext3"))
		b.add(b.id, volume.GiB).content = filesystem.Signature{State: filesystem.StateFormatted, IsComplete: true, Type: filesystem.TypeExt3, Size: volume.GiB}
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
		wantKind(t, try(b.stage), volume.KindDeadline, "checking")
		wantKind(t, try(b.stage), volume.KindDeadline, "another operation")
		finish(b.holdCheck, b.stage)
		if n := b.countCalls("check"); n != 2 || len(b.mounts) != 1 {
			t.Errorf("checked %d times, mounts %v", n, b.mounts)
		}
		b.holdUnmount = make(chan struct{})
		wantKind(t, try(b.unstage), volume.KindDeadline, "unmounting")
		wantKind(t, try(b.stage), volume.KindDeadline, "another operation")
		finish(b.holdUnmount, b.unstage)
		if len(b.mounts) != 0 {
			t.Errorf("mounts %v", b.mounts)
		}
	})
}

// After an error that it takes for final, kubelet never unstages: a volume that
// stayed connected could not be detached ever again.
func TestStageThatFailsLeavesNothingConnected(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	d := b.add(b.id, volume.GiB)
	b.fail["format"] = volume.Errorf(volume.KindInternal, "mkfs is missing")
	wantKind(t, b.stage(t.Context()), volume.KindInternal, "mkfs is missing")
	if d.connected {
		t.Error("the volume is still connected")
	}
	delete(b.fail, "format")
	if err := b.stage(t.Context()); err != nil || !d.connected {
		t.Errorf("staged again: %v, connected %v", err, d.connected)
	}
	// What was staged before stays, in use or not.
	b.capability = mountCapability("xfs")
	wantKind(t, b.stage(t.Context()), volume.KindAlreadyExists)
	if !d.connected || len(b.mounts) != 1 {
		t.Errorf("connected %v with %d mounts, want it left alone", d.connected, len(b.mounts))
	}
}

// A raw volume is staged by nothing but its connection.
func TestStageInAnotherWayLeavesARawVolumeStaged(t *testing.T) {
	b := newTestNode(t, blockCapability())
	d := b.add(b.id, volume.GiB)
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.capability = mountCapability("ext4")
	b.fail["format"] = volume.Errorf(volume.KindPrecondition, "not blank")
	wantKind(t, b.stage(t.Context()), volume.KindPrecondition)
	b.capability = blockCapability()
	if err := b.publish(t.Context(), false); err != nil || !d.connected {
		t.Errorf("published: %v, connected %v", err, d.connected)
	}
}

// A format that outlives its call needs the device.
func TestStageThatRunsOutOfTimeKeepsTheDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTestNode(t, mountCapability("ext3"))
		d := b.add(b.id, volume.GiB)
		b.holdFormat = make(chan struct{})
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		wantKind(t, b.stage(ctx), volume.KindDeadline)
		if !d.connected {
			t.Error("the device was taken from under mkfs")
		}
		close(b.holdFormat)
		if err := b.stage(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// A filesystem that does not answer has not failed: it stays mounted.
func TestStageLeavesASilentFilesystemMounted(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	b.add(b.id, volume.GiB)
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []volume.Kind{volume.KindDeadline, volume.KindInternal} {
		b.fail["alive"] = volume.Errorf(kind, "the device does not answer")
		wantKind(t, b.stage(t.Context()), kind, "does not answer")
		if len(b.mounts) != 1 || b.countCalls("unmount") != 0 {
			t.Errorf("%s: mounts %v, %d unmounts", kind, b.mounts, b.countCalls("unmount"))
		}
	}
}
