package node

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/luks"
	"github.com/growvol/growvol/pkg/volume"
)

// What one call has opened it closes when it fails; what was open before
// stays, for it may be staged as a raw device.
func TestRetreatClosesOnlyItsOwnMapping(t *testing.T) {
	b := newEncryptedTestNode(t, blockCapability())
	d := b.add(b.id, volume.GiB)
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.capability = mountCapability("ext4")
	wantKind(t, b.stage(t.Context()), volume.KindPrecondition, "random")
	if !d.connected || b.mappedDisks[b.id] != d {
		t.Errorf("connected %t, mapping %t: a raw volume was unstaged", d.connected, b.mappedDisks[b.id] == d)
	}
	// Connected before this call, as after a crash, but without the mapping.
	d.mappingSize = 0
	delete(b.mappedDisks, b.id)
	wantKind(t, b.stage(t.Context()), volume.KindPrecondition, "random")
	if !d.connected || b.mappedDisks[b.id] != nil {
		t.Errorf("connected %t, mapping %t", d.connected, b.mappedDisks[b.id] == d)
	}
}

// A mapping whose disk is gone is nobody's: what takes its place is this
// call's.
func TestRetreatClosesAMappingThatTookAnothersPlace(t *testing.T) {
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

// What this call has open must not keep its retreat from closing the mapping.
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
	wantKind(t, b.stage(t.Context()), volume.KindDeadline, "no answer")
	wantClosed(t, b, d)
}

func TestUnstageOfAnEncryptedVolumeConverges(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(b *testNode, d *fakeDisk)
	}{
		"nothing has happened yet": {func(*testNode, *fakeDisk) {}},
		"unmounted":                {func(b *testNode, _ *fakeDisk) { b.mounts = nil }},
		"closed":                   {func(b *testNode, d *fakeDisk) { b.mounts, d.mappingSize = nil, 0; delete(b.mappedDisks, b.id) }},
		"disconnected": {func(b *testNode, d *fakeDisk) {
			b.mounts, d.mappingSize, d.connected = nil, 0, false
			delete(b.mappedDisks, b.id)
		}},
		"the record is gone":           {func(b *testNode, _ *fakeDisk) { _ = b.records.Remove(b.id) }},
		"the volume was deleted":       {func(_ *testNode, d *fakeDisk) { d.deleted = true }},
		"the disk is gone":             {func(_ *testNode, d *fakeDisk) { d.connected = false }},
		"disk and volume are gone":     {func(_ *testNode, d *fakeDisk) { d.connected, d.deleted = false, true }},
		"deleted, and no record of it": {func(b *testNode, d *fakeDisk) { d.deleted = true; _ = b.records.Remove(b.id) }},
	} {
		t.Run(name, func(t *testing.T) {
			b := newEncryptedTestNode(t, mountCapability("ext4"))
			d := b.add(b.id, volume.GiB)
			if err := b.stage(t.Context()); err != nil {
				t.Fatal(err)
			}
			c.prepare(b, d)
			for range 2 {
				if err := b.unstage(t.Context()); err != nil {
					t.Fatal(err)
				}
				wantClosed(t, b, d)
			}
			if r, err := b.records.Read(b.id); err != nil || r.ID != "" {
				t.Errorf("record %+v, %v", r, err)
			}
		})
	}
}

func TestUnstageLeavesAMappingInUse(t *testing.T) {
	b := newEncryptedTestNode(t, mountCapability("ext4"))
	d := b.stageAndPublish(t, volume.GiB)
	wantKind(t, b.unstage(t.Context()), volume.KindPrecondition, b.target)
	if b.mappedDisks[b.id] == nil || !d.connected {
		t.Error("a published volume was taken away")
	}
	if err := b.unpublish(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.fail["luks-close"] = volume.Errorf(volume.KindDeadline, "the mapping stays open")
	wantKind(t, b.unstage(t.Context()), volume.KindDeadline, "stays open")
	if !d.connected || b.countCalls("disconnect") != 0 {
		t.Error("disconnected below an open mapping")
	}
	delete(b.fail, "luks-close")
	b.fail["luks-find"] = errors.New("no device mapper control")
	wantKind(t, b.unstage(t.Context()), volume.KindInternal)
	delete(b.fail, "luks-find")
	if err := b.unstage(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantClosed(t, b, d)
}

// The name of a mapping proves nothing.
func TestUnstageLeavesAnothersMappingAlone(t *testing.T) {
	for name, deleted := range map[string]bool{"on another volume's disk": false, "of a volume that is not known": true} {
		t.Run(name, func(t *testing.T) {
			b := newEncryptedTestNode(t, mountCapability("ext4"))
			other := b.add("vol-2", volume.GiB)
			other.connected, other.deviceSize = true, volume.GiB
			b.encrypt(other) // under the name of vol-1
			if !deleted {
				b.add(b.id, volume.GiB)
			}
			if err := b.unstage(t.Context()); err != nil {
				t.Fatal(err)
			}
			if b.mappedDisks[b.id] != other || b.countCalls("luks-close") != 0 {
				t.Error("the mapping of another volume was closed")
			}
		})
	}
	b := newEncryptedTestNode(t, mountCapability("ext4"))
	other := b.add("vol-2", volume.GiB)
	other.connected, other.deviceSize = true, volume.GiB
	b.encrypt(other)
	b.add(b.id, volume.GiB)
	b.fail["verify"] = volume.Errorf(volume.KindDeadline, "no answer")
	wantKind(t, b.unstage(t.Context()), volume.KindDeadline)
	delete(b.fail, "verify")
	b.fail["luks-find"] = volume.Errorf(volume.KindPrecondition, "not a LUKS2 mapping of this driver")
	if err := b.unstage(t.Context()); err != nil || b.countCalls("luks-close") != 0 {
		t.Errorf("a foreign device of that name: %v, %d calls of Close", err, b.countCalls("luks-close"))
	}
}

// Identity is denied of the very disk that the connector names: nothing is
// taken from under the mapping.
func TestUnstageOfAMappingThatIsNotProved(t *testing.T) {
	b := newEncryptedTestNode(t, blockCapability())
	d := b.add(b.id, volume.GiB)
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.serial = "vol-2"
	wantKind(t, b.unstage(t.Context()), volume.KindPrecondition, "another volume")
	if b.countCalls("luks-close") != 0 || b.countCalls("disconnect") != 0 || b.mappedDisks[b.id] != d {
		t.Error("the mapping or the disk was taken away")
	}
}

func TestEncryptedFilesystemGrows(t *testing.T) {
	b := newEncryptedTestNode(t, mountCapability("ext4"))
	d := b.stageAndPublish(t, volume.GiB)
	for _, size := range []volume.Size{2 * volume.GiB, 2 * volume.GiB, 5 * volume.GiB} {
		d.backendSize = size
		if n, err := b.expand(t.Context(), size); err != nil || n != size {
			t.Fatalf("%s, %v", n, err)
		}
		if want := size - headerSize; d.mappingSize != want || d.content.Size != want {
			t.Errorf("mapping %s, filesystem %s, want %s", d.mappingSize, d.content.Size, want)
		}
	}
}

// A clone or restore into a larger volume, and a mapping that is still open at
// its old size.
func TestStageGrowsAnEncryptedVolume(t *testing.T) {
	for name, open := range map[string]bool{"a clone": false, "an open mapping": true} {
		t.Run(name, func(t *testing.T) {
			b := newEncryptedTestNode(t, mountCapability("ext4"))
			d := b.add(b.id, 4*volume.GiB)
			d.luks.header, d.luks.passphrase, d.content = luksHeader(luks.HeaderSound), secret, ext4Signature()
			if open {
				d.connected, d.deviceSize, d.mappingSize, b.mappedDisks[b.id] = true, volume.GiB, volume.GiB-headerSize, d
			}
			if err := b.stage(t.Context()); err != nil {
				t.Fatal(err)
			}
			if want := 4*volume.GiB - headerSize; d.mappingSize != want || d.content.Size != want {
				t.Errorf("mapping %s, filesystem %s, want %s", d.mappingSize, d.content.Size, want)
			}
		})
	}
}

func TestEncryptedRawVolume(t *testing.T) {
	requireDeviceNodes(t)
	b := newEncryptedTestNode(t, blockCapability())
	d := b.stageAndPublish(t, volume.GiB)
	var st unix.Stat_t
	if err := unix.Stat(b.target, &st); err != nil || unix.Major(st.Rdev) != cryptMajor {
		t.Fatalf("published is %d:%d, %v; want the mapping", unix.Major(st.Rdev), unix.Minor(st.Rdev), err)
	}
	if err := b.stage(t.Context()); err != nil { // kubelet has restarted
		t.Fatal(err)
	}
	usage, err := b.NodeGetVolumeStats(t.Context(), &csi.NodeGetVolumeStatsRequest{VolumeId: b.id, VolumePath: b.target})
	if err != nil || usage.GetUsage()[0].GetTotal() != (volume.GiB-headerSize).Bytes() {
		t.Errorf("stats %v, %v", usage, err)
	}
	d.backendSize = 3 * volume.GiB
	if n, err := b.expand(t.Context(), 3*volume.GiB); err != nil || n != 3*volume.GiB || d.mappingSize != 3*volume.GiB-headerSize {
		t.Errorf("%s, %v; the mapping has %s", n, err, d.mappingSize)
	}
	wantKind(t, b.unstage(t.Context()), volume.KindPrecondition, b.target)
	if b.countCalls("format") != 0 || d.content != noiseSignature() {
		t.Errorf("a raw volume now holds %s", d.content)
	}
	if err := errors.Join(b.unpublish(t.Context()), b.unstage(t.Context())); err != nil {
		t.Fatal(err)
	}
	wantClosed(t, b, d)
}

// A restore into a larger raw volume whose mapping a crash has left open.
func TestStageGrowsAnEncryptedRawVolume(t *testing.T) {
	b := newEncryptedTestNode(t, blockCapability())
	d := b.add(b.id, 4*volume.GiB)
	b.encrypt(d)
	d.connected, d.deviceSize, d.mappingSize = true, volume.GiB, volume.GiB-headerSize
	b.fail["resize-crypt"] = volume.Errorf(volume.KindDeadline, "cryptsetup was stopped")
	wantKind(t, b.stage(t.Context()), volume.KindDeadline)
	delete(b.fail, "resize-crypt")
	if err := b.stage(t.Context()); err != nil || d.mappingSize != 4*volume.GiB-headerSize {
		t.Errorf("%v; the mapping has %s", err, d.mappingSize)
	}
}

// The disk of an encrypted volume holds ciphertext: no pod gets that for its
// raw device, whatever was lost.
func TestRawPublishNeverShowsTheCiphertext(t *testing.T) {
	b := newEncryptedTestNode(t, blockCapability())
	d := b.add(b.id, volume.GiB)
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.mappingSize = 0
	delete(b.mappedDisks, b.id)
	wantKind(t, b.publish(t.Context(), false), volume.KindPrecondition, "not staged")
	b.context = nil // the record knows it too
	wantKind(t, b.publish(t.Context(), false), volume.KindPrecondition, "not staged")
	b.context = map[string]string{volume.EncryptedKey: "true"}
	if err := b.records.Remove(b.id); err != nil {
		t.Fatal(err)
	}
	wantKind(t, b.publish(t.Context(), false), volume.KindPrecondition, "not staged")
	// A mapping of this name on another volume's disk is not this volume.
	other := b.add("vol-2", volume.GiB)
	other.connected, other.deviceSize = true, volume.GiB
	b.encrypt(other)
	wantKind(t, b.publish(t.Context(), false), volume.KindPrecondition, "not staged")
}

// Raw and mounted at once would be two writers who do not know of one another.
func TestEncryptedVolumeIsUsedInOneWay(t *testing.T) {
	b := newEncryptedTestNode(t, mountCapability("ext4"))
	b.stageAndPublish(t, volume.GiB)
	b.capability = blockCapability()
	wantKind(t, b.stage(t.Context()), volume.KindPrecondition, "mounted")
	b.target += "-raw"
	wantKind(t, b.publish(t.Context(), false), volume.KindPrecondition, "mounted")
}

func TestDeviceChangeGrowsAnEncryptedVolume(t *testing.T) {
	for name, capability := range map[string]*csi.VolumeCapability{"mounted": mountCapability("ext4"), "raw": blockCapability()} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newEncryptedTestNode(t, capability)
				d := b.add(b.id, volume.GiB)
				if err := b.stage(t.Context()); err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan struct{})
				go func() { defer close(done); b.GrowOnDeviceChange(ctx) }()
				synctest.Wait()
				b.growDevice(d, 4*volume.GiB, true)
				b.mu.Lock()
				got := d.mappingSize
				b.mu.Unlock()
				if want := 4*volume.GiB - headerSize; got != want || name == "mounted" && b.filesystemSize(d) != want {
					t.Errorf("mapping %s, filesystem %s, want %s", got, b.filesystemSize(d), want)
				}
				cancel()
				<-done
				if d.openHandles+d.luks.openHandles != 0 {
					t.Errorf("%d and %d descriptors are still open", d.openHandles, d.luks.openHandles)
				}
			})
		})
	}
}

func TestHealthOfAnEncryptedVolume(t *testing.T) {
	for name, capability := range map[string]*csi.VolumeCapability{"mounted": mountCapability("ext4"), "raw": blockCapability()} {
		t.Run(name, func(t *testing.T) {
			b := newEncryptedTestNode(t, capability)
			d := b.add(b.id, volume.GiB)
			if err := b.stage(t.Context()); err != nil {
				t.Fatal(err)
			}
			wantHealthy(t, b)
			d.backendSize, d.deviceSize = 4*volume.GiB, 4*volume.GiB
			c := wantCondition(t, b, reasonDeviceShort, csi.VolumeHealthErrorType_DEGRADED)
			for _, word := range []string{"mapping", d.mappingSize.String(), (4*volume.GiB - headerSize).String()} {
				if !strings.Contains(c.GetMessage(), word) {
					t.Errorf("the condition %q does not mention %q", c.GetMessage(), word)
				}
			}
			if err := b.stage(t.Context()); err != nil {
				t.Fatal(err)
			}
			wantHealthy(t, b)
			d.deviceSize = 2 * volume.GiB
			c = wantCondition(t, b, reasonDeviceShort, csi.VolumeHealthErrorType_DEGRADED)
			if !strings.Contains(c.GetMessage(), d.path+" has 2 GiB") {
				t.Errorf("the condition %q is not of the disk", c.GetMessage())
			}
		})
	}
}

// As of the disk: what several nodes read must refuse writes; what one node
// reads must not, because the kernel replays its journal.
func TestWhenTheMappingIsReadOnly(t *testing.T) {
	for _, c := range []struct {
		capability *csi.VolumeCapability
		mode       csi.VolumeCapability_AccessMode_Mode
		sealed     bool // the storage has the disk read-only
		want       bool
	}{
		{mountCapability("ext4"), csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY, false, false},
		{mountCapability("ext4"), csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY, true, true},
		{mountCapability("ext4"), csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY, false, true},
		{mountCapability("ext4"), csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER, false, false},
		{blockCapability(), csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY, false, true},
		{blockCapability(), csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER, false, false},
	} {
		c.capability.AccessMode.Mode = c.mode
		b := newEncryptedTestNode(t, c.capability)
		d := b.add(b.id, volume.GiB)
		d.luks.header, d.luks.passphrase, d.content = luksHeader(luks.HeaderSound), secret, ext4Signature()
		d.readOnly = c.sealed
		for range 2 {
			if err := b.stage(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if d.luks.readOnly != c.want {
			t.Errorf("%v: mapping read-only %t", c.capability, d.luks.readOnly)
		}
	}
}

func TestStageOfAMappingInAnotherMode(t *testing.T) {
	b := newEncryptedTestNode(t, mountCapability("ext4"))
	b.stageAndPublish(t, volume.GiB)
	b.capability = mountCapability("ext4")
	b.capability.AccessMode.Mode = csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY
	wantKind(t, b.stage(t.Context()), volume.KindAlreadyExists, "read-only")
}

// A mapping that somebody else has made, mounted at the staging path, is what
// is staged: also again, after a restart of kubelet.
func TestStageAgainOnAMappingMadeByHand(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	b.secrets = map[string]string{PassphraseKey: secret}
	d := b.add(b.id, volume.GiB)
	d.connected, d.deviceSize, d.mappingSize, d.content = true, volume.GiB, volume.GiB-headerSize, ext4Signature()
	d.luks.header, d.luks.keyInKeyring = luksHeader(luks.HeaderSound), true
	b.addMount(b.staging, mountOfMapping(d))
	d.backendSize = 2 * volume.GiB
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(b.mounts) != 1 || b.countCalls("format") != 0 || d.content.Size != 2*volume.GiB-headerSize {
		t.Errorf("mounts %v, filesystem %s", b.mounts, d.content.Size)
	}
	if d.openHandles+d.luks.openHandles != 0 {
		t.Errorf("%d and %d descriptors are still open", d.openHandles, d.luks.openHandles)
	}
}
