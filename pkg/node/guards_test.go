package node

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/growvol/growvol/pkg/node/stagerecord"
	"github.com/growvol/growvol/pkg/operation"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/volume"
)

// The filesystem on a mapping is asked for the mapping's size: the volume's it
// cannot have, and nothing less counts.
func TestGrowthOnAMappingRequiresTheMappingsSize(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	d := b.stageAndPublish(t, volume.GiB)
	d.mappingSize, d.content.Size = volume.GiB-headerSize, volume.GiB-headerSize
	for i := range b.mounts {
		b.mounts[i].Device.Major = cryptMajor
	}
	d.backendSize = 2 * volume.GiB
	at := make(chan filesystem.GrowRequest, 1)
	b.opts.Filesystems = recordingGrow{fakeFilesystems{b.machine}, at}
	_, err := b.NodeExpandVolume(t.Context(), &csi.NodeExpandVolumeRequest{
		VolumeId: b.id, VolumePath: b.target, StagingTargetPath: b.staging, CapacityRange: &csi.CapacityRange{RequiredBytes: 2 << 30},
		Secrets: map[string]string{PassphraseKey: "secret"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := (<-at).Required, 2*volume.GiB-headerSize; got != want {
		t.Errorf("the filesystem is asked for %s, want %s", got, want)
	}
}

// A device may lack one header of its volume, not two, and none at all when
// the controller knows that nothing is encrypted.
func TestDeviceMayLackOneHeaderOnly(t *testing.T) {
	for name, c := range map[string]struct{ hidden, lacks volume.Size }{
		"more than a header":             {32 * volume.MiB, 40 * volume.MiB},
		"a header of what is not hidden": {0, 16 * volume.MiB},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newTestNode(t, mountCapability("ext4"))
				d := b.add(b.id, volume.GiB)
				d.conn, d.sizeOnlyAtConnect = granularConnection(), true
				d.conn.MaxOverhead, d.conn.PublishedSize = c.hidden, 2*volume.GiB
				if err := errors.Join(b.stage(t.Context()), b.publish(t.Context(), false)); err != nil {
					t.Fatal(err)
				}
				r, err := b.records.Read(b.id)
				if err != nil {
					t.Fatal(err)
				}
				r.Size = 2 * volume.GiB // as it is learned at the attach
				if err := b.records.Write(r); err != nil {
					t.Fatal(err)
				}
				d.backendSize, d.overhead = 2*volume.GiB, c.lacks
				d.deviceSize = d.backendSize - d.overhead
				d.content.Size = d.deviceSize
				for _, required := range []volume.Size{4 * volume.GiB, 2 * volume.GiB} { // the first exceeds the volume, while the pod starts
					_, err := b.expandWithin(t, required, time.Minute)
					wantKind(t, err, volume.KindDeadline)
				}
				wantCondition(t, b, reasonDeviceShort, csi.VolumeHealthErrorType_DEGRADED)
			})
		})
	}
}

// Long waits lie before mkfs and mount: directly before them the disk is
// proved once more to be the volume's.
func TestStageConfirmsTheDiskDirectlyBeforeWhatCannotBeUndone(t *testing.T) {
	for step, c := range map[string]struct {
		last    string // the call before the confirmation
		content filesystem.Signature
	}{
		"format": {"await", filesystem.Signature{State: filesystem.StateBlank}},
		"mount":  {"check", ext4Signature()},
	} {
		t.Run(step, func(t *testing.T) {
			b := newTestNode(t, mountCapability("ext4"))
			d := b.add(b.id, volume.GiB)
			d.content = c.content
			b.hooks[c.last] = func() { d.serial = "vol-2" }
			wantKind(t, b.stage(t.Context()), volume.KindPrecondition, "another volume")
			if b.countCalls(step) != 0 || d.content != c.content || len(b.mounts) != 0 {
				t.Errorf("calls %v, content %s, mounts %+v", b.calls, d.content, b.mounts)
			}
		})
	}
}

// The disk is proved while it is open: before that its number may go to another.
func TestDiskIsVerifiedAfterItWasOpened(t *testing.T) {
	for name, call := range map[string]func(*testNode, context.Context) error{
		"expand": func(b *testNode, ctx context.Context) error {
			_, err := b.expand(ctx, 2*volume.GiB)
			return err
		},
		"growth on device change": func(b *testNode, ctx context.Context) error { _, err := b.growToDevice(ctx, b.id); return err },
	} {
		t.Run(name, func(t *testing.T) {
			b := newTestNode(t, mountCapability("ext4"))
			d := b.stageAndPublish(t, volume.GiB)
			d.backendSize, d.deviceSize = 2*volume.GiB, 2*volume.GiB
			b.hooks["open"] = func() { d.serial = "vol-2" }
			wantKind(t, call(b, t.Context()), volume.KindPrecondition, "another volume")
			if d.content.Size != volume.GiB {
				t.Errorf("the filesystem of another volume was grown to %s", d.content.Size)
			}
		})
	}
}

// What is staged read-only is not even looked at.
func TestDeviceChangeOfAReadOnlyStagingTriesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTestNode(t, mountCapability("ext4", "ro"))
		d := b.add(b.id, volume.GiB)
		d.content = ext4Signature()
		if err := b.stage(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		go b.GrowOnDeviceChange(ctx)
		synctest.Wait()
		b.growDevice(d, 2*volume.GiB, true)
		_ = operation.Sleep(ctx, 2*sizeReadInterval)
		synctest.Wait()
		if n := b.countCalls("grow"); n != 0 {
			t.Errorf("%d growths were tried", n)
		}
		if _, err := b.growToDevice(ctx, b.id); err != nil || b.countCalls("grow") != 0 {
			t.Errorf("tried all the same, %v", err)
		}
		cancel()
		synctest.Wait()
	})
}

// An announcement during a growth is not lost, and one of a size that is known
// is a reason to try what failed.
func TestDeviceChangeDuringAGrowthAndAfterARepair(t *testing.T) {
	withSizeWatcher(t, mountCapability("ext4"), func(t *testing.T, b *testNode, d *fakeDisk) {
		t.Helper()
		start := time.Now()
		hang := make(chan struct{})
		b.mu.Lock()
		b.holdGrow = hang
		b.mu.Unlock()
		b.growDevice(d, 2*volume.GiB, true)
		b.growDevice(d, 3*volume.GiB, true)
		b.mu.Lock()
		b.holdGrow = nil
		b.mu.Unlock()
		close(hang)
		synctest.Wait()
		if got := b.filesystemSize(d); got != 3*volume.GiB || time.Since(start) > 0 {
			t.Errorf("the filesystem has %s after %s, want 3 GiB at once", got, time.Since(start))
		}
		b.mu.Lock()
		b.fail["grow"] = volume.Errorf(volume.KindPrecondition, "run e2fsck")
		b.mu.Unlock()
		b.growDevice(d, 4*volume.GiB, true)
		b.mu.Lock()
		delete(b.fail, "grow")
		b.mu.Unlock()
		b.growDevice(d, 4*volume.GiB, true)
		if got := b.filesystemSize(d); got != 4*volume.GiB {
			t.Errorf("after the repair the filesystem has %s, want 4 GiB", got)
		}
	})
}

// The backend itself says that the volume has grown: the device will follow.
func TestExpandAwaitsWhatTheBackendKnowsOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTestNode(t, mountCapability("ext4"))
		d := b.add(b.id, volume.GiB)
		d.conn.PublishedSize = volume.GiB
		if err := errors.Join(b.stage(t.Context()), b.publish(t.Context(), false)); err != nil {
			t.Fatal(err)
		}
		d.backendSize, d.ignoresRescan = 4*volume.GiB, true
		_, err := b.expandWithin(t, 4*volume.GiB, time.Minute)
		wantKind(t, err, volume.KindDeadline, "1 GiB", "4 GiB")
		if d.awaitTimeout < 50*time.Second {
			t.Errorf("waited %s for the device, want nearly all of the call's minute", d.awaitTimeout)
		}
	})
}

// A volume that was published before it left the node does not count as one
// whose pod starts.
func TestPublishTimeIsForgottenAtUnstage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTestNode(t, mountCapability("ext4"))
		d := b.add(b.id, volume.GiB)
		d.conn.PublishedSize, d.sizeOnlyAtConnect = volume.GiB, true
		err := errors.Join(b.stage(t.Context()), b.publish(t.Context(), false), b.unpublish(t.Context()), b.unstage(t.Context()), b.stage(t.Context()))
		if err != nil {
			t.Fatal(err)
		}
		b.target, d.ignoresRescan = b.staging, true
		_, err = b.expandWithin(t, 4*volume.GiB, time.Minute)
		wantKind(t, err, volume.KindDeadline)
	})
}

// The cause of an earlier failure is not named once it is gone.
func TestHealthForgetsTheCauseOfAnEarlierFailure(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, b *testNode){
		"after a growth": func(t *testing.T, b *testNode) {
			t.Helper()
			if _, err := b.expand(t.Context(), 2*volume.GiB); err != nil {
				t.Fatal(err)
			}
		},
		"after the volume has left": func(t *testing.T, b *testNode) {
			t.Helper()
			err := errors.Join(b.unpublish(t.Context()), b.unstage(t.Context()))
			b.capability = mountCapability("ext4", "ro") // nothing grows
			if err = errors.Join(err, b.stage(t.Context())); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newTestNode(t, mountCapability("ext4"))
			d := b.stageAndPublish(t, volume.GiB)
			d.backendSize = 2 * volume.GiB
			b.fail["grow"] = volume.Errorf(volume.KindPrecondition, "run e2fsck")
			_, err := b.expand(t.Context(), 2*volume.GiB)
			wantKind(t, err, volume.KindPrecondition)
			delete(b.fail, "grow")
			end(t, b)
			d.measured = filesystem.Measurement{Size: volume.GiB}
			d.deviceSize = 2 * volume.GiB
			if c := wantCondition(t, b, reasonFilesystemShort, csi.VolumeHealthErrorType_DEGRADED); strings.Contains(c.GetMessage(), "e2fsck") {
				t.Errorf("the condition %q names a cause of old", c.GetMessage())
			}
		})
	}
}

// What is mounted at the staging path of a raw volume is none of its business.
func TestHealthOfARawVolumeReadsNoFilesystem(t *testing.T) {
	b := newTestNode(t, blockCapability())
	b.add(b.id, volume.GiB)
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	other := b.add("vol-2", volume.GiB)
	other.connected = true
	b.addMount(b.staging, mountOf(other))
	wantHealthy(t, b)
}

// Of a filesystem that is read-only nothing is bound for writing, not even for
// a moment.
func TestPublishForWritingBindsNothingReadOnly(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	b.add(b.id, volume.GiB)
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.mounts[0].SuperOptions = []string{"ro"}
	wantKind(t, b.publish(t.Context(), false), volume.KindPrecondition, "kernel log")
	if b.countCalls("bind") != 0 {
		t.Error("it was bound")
	}
}

// A failure that passes keeps the mount for the next try.
func TestStageThatIsToBeRetriedKeepsItsMount(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	d := b.add(b.id, volume.GiB)
	d.content = ext4Signature()
	b.fail["grow"] = volume.Errorf(volume.KindDeadline, "is still being grown")
	wantKind(t, b.stage(t.Context()), volume.KindDeadline)
	if len(b.mounts) != 1 || b.countCalls("unmount") != 0 || !d.connected {
		t.Errorf("mounts %+v, connected %t", b.mounts, d.connected)
	}
}

// As long as a volume is connected its record stays.
func TestRecordStaysUntilTheVolumeIsDisconnected(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	b.add(b.id, volume.GiB)
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.fail["disconnect"] = volume.Errorf(volume.KindDeadline, "a process still has it open")
	wantKind(t, b.unstage(t.Context()), volume.KindDeadline)
	if left, err := b.records.List(t.Context()); err != nil || len(left) != 1 {
		t.Errorf("records %+v, %v", left, err)
	}
	delete(b.fail, "disconnect")
	if err := b.unstage(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left, err := b.records.List(t.Context()); err != nil || len(left) != 0 {
		t.Errorf("records left: %+v, %v", left, err)
	}
}

// Before the kernel mounts it, the volume is on record: a crash after the mount
// would leave one that nobody knows.
func TestRecordIsWrittenBeforeTheMount(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	b.add(b.id, volume.GiB)
	var known []stagerecord.Record
	b.hooks["mount"] = func() { known, _ = b.records.List(context.Background()) }
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(known) != 1 || known[0].ID != b.id || known[0].Staging != b.staging {
		t.Errorf("records at the mount: %+v", known)
	}
}

// A disk that does not answer does not keep the watch from ending.
func TestGrowOnDeviceChangeEndsWhileADiskHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTestNode(t, mountCapability("ext4"))
		b.stageAndPublish(t, volume.GiB)
		hang := make(chan struct{})
		b.opts.Devices = hangingSizes{fakeDevices{b.machine}, hang}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); b.GrowOnDeviceChange(ctx) }()
		synctest.Wait()
		cancel()
		select {
		case <-ended:
		case <-time.After(time.Minute):
			t.Error("it does not end")
		}
		close(hang)
		<-ended
	})
}

// hangingSizes are devices whose sizes are not answered.
type hangingSizes struct {
	fakeDevices

	hang <-chan struct{}
}

func (h hangingSizes) Size(dev blockdev.Device) (volume.Size, error) {
	<-h.hang
	return h.fakeDevices.Size(dev)
}

// A volume whose staging mount is lost has nothing to grow; its pod's next
// call says so.
func TestDeviceChangeOfAVolumeThatIsNotMounted(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	b.stageAndPublish(t, volume.GiB)
	b.dropMount(b.staging)
	grown := b.countCalls("grow")
	if _, err := b.growToDevice(t.Context(), b.id); err != nil || b.countCalls("grow") != grown {
		t.Errorf("%v, %d growths", err, b.countCalls("grow")-grown)
	}
}

// An id may be longer than the name of a file.
func TestStageOfAVolumeWithALongID(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	b.id = strings.Repeat("/", 128) // 384 bytes once it is escaped
	b.add(b.id, volume.GiB)
	for range 2 {
		if err := b.stage(t.Context()); err != nil {
			t.Fatal(err)
		}
		records, err := b.records.List(t.Context())
		if err != nil || len(records) != 1 || records[0].ID != b.id {
			t.Errorf("records %v, %v", records, err)
		}
		if ids := b.records.IDs(t.Context()); len(ids) != 1 || ids[0] != b.id {
			t.Errorf("staged volumes %q", ids)
		}
		if err := b.unstage(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	b.id = strings.Repeat("x", 5000) // no volume has it
	if err := b.unstage(t.Context()); err != nil {
		t.Error(err)
	}
}
