package node

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/luks"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// A second PersistentVolume with the same handle but without encryption must not get the disk below
// the mapping.
func TestDiskBelowTheMappingIsNotUsedDirectly(t *testing.T) {
	for name, staged := range map[string]*csi.VolumeCapability{
		"raw": blockCapability(), "mounted": mountCapability("ext4"),
	} {
		t.Run(name, func(t *testing.T) {
			b := newEncryptedTestNode(t, staged)
			d := b.add(b.id, volume.GiB)
			if err := b.stage(t.Context()); err != nil {
				t.Fatal(err)
			}
			mounts := len(b.mounts)
			b.context, b.staging = nil, b.staging+"-2"
			for _, capability := range []*csi.VolumeCapability{blockCapability(), mountCapability("ext4")} {
				b.capability = capability
				volumetest.WantKind(t, b.stage(t.Context()), volume.KindPrecondition, "the volume is ", "next step")
			}
			if err := b.records.Remove(b.id); err != nil { // nothing else says that it is encrypted
				t.Fatal(err)
			}
			b.capability = blockCapability()
			volumetest.WantKind(t, b.publish(t.Context(), false), volume.KindPrecondition, "the volume is ", "next step")
			if len(b.mounts) != mounts || b.mappedDisks[b.id] != d || !d.connected {
				t.Errorf("mounts %v, mapping %t, connected %t", b.mounts, b.mappedDisks[b.id] == d, d.connected)
			}
			if r, err := b.records.Read(b.id); err != nil || r.ID != "" {
				t.Errorf("record %+v, %v", r, err)
			}
		})
	}
}

// wantMarkers fails the test unless the volume has markers, or has none.
func wantMarkers(t *testing.T, b *testNode, want bool) {
	t.Helper()
	for _, path := range []string{b.formatMarker(b.id), b.encryptionMarker(b.id)} {
		if _, err := os.Stat(path); !want && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the marker %s is still there: %v", path, err)
		}
	}
	if _, err := os.Stat(b.encryptionMarker(b.id)); want && err != nil {
		t.Error(err)
	}
}

// wantClosed fails the test unless nothing of the volume is left on the node.
func wantClosed(t *testing.T, b *testNode, d *fakeDisk) {
	t.Helper()
	if len(b.mounts) != 0 || b.mappedDisks[b.id] != nil || d.hasMapping() || d.connected ||
		d.openHandles+d.luks.openHandles != 0 {
		t.Errorf(
			"left: mounts %v, mapping %t, connected %t, %d and %d descriptors", b.mounts, d.hasMapping(), d.connected,
			d.openHandles, d.luks.openHandles,
		)
	}
}

func TestStageEncryptsABlankVolumeOnce(t *testing.T) {
	for _, fstype := range []string{"ext4", "xfs"} {
		b := newEncryptedTestNode(t, mountCapability(fstype))
		d := b.add(b.id, volume.GiB)
		// kubelet repeats the call after a restart.
		for range 3 {
			if err := b.stage(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if b.countCalls("format") != 1 || len(b.mounts) != 1 || b.mounts[0].Device != mappingNumberOf(d) ||
			d.luks.header.State != luks.HeaderSound {
			t.Errorf("formatted %d times, mounts %+v, header %s", b.countCalls("format"), b.mounts, d.luks.header)
		}
		if want := volume.GiB - headerSize; d.mappingSize != want || d.content.Size != want {
			t.Errorf("mapping %s, filesystem %s, want %s", d.mappingSize, d.content.Size, want)
		}
		wantMarkers(t, b, false)
		if d.openHandles+d.luks.openHandles != 0 {
			t.Errorf("%d and %d descriptors are still open", d.openHandles, d.luks.openHandles)
		}
		for i, call := range []func(context.Context) error{
			func(ctx context.Context) error { return b.publish(ctx, false) }, b.unpublish, b.unstage, b.unstage,
		} {
			if err := call(t.Context()); err != nil {
				t.Fatalf("call %d: %v", i, err)
			}
		}
		wantClosed(t, b, d)
		if err := b.stage(t.Context()); err != nil || b.countCalls("format") != 1 {
			t.Errorf("staged again: %v, formatted %d times", err, b.countCalls("format"))
		}
	}
}

func TestStageRefusesAnEncryptedVolume(t *testing.T) {
	for name, c := range map[string]struct {
		capability *csi.VolumeCapability
		prepare    func(b *testNode, d *fakeDisk)
		kind       volume.Kind
		words      []string
	}{
		"no passphrase": {
			mountCapability("ext4"), func(b *testNode, _ *fakeDisk) { b.secrets = nil }, volume.KindInvalid,
			[]string{"passphrase", "node-stage-secret-name"},
		},
		"an empty passphrase": {
			mountCapability("ext4"), func(b *testNode, _ *fakeDisk) { b.secrets[PassphraseKey] = "" }, volume.KindInvalid,
			[]string{"passphrase", "node-stage-secret-name"},
		},
		"a wrong passphrase": {mountCapability("ext4"), func(b *testNode, d *fakeDisk) {
			d.luks.header, d.luks.passphrase, b.secrets[PassphraseKey] = luksHeader(luks.HeaderSound), secret, "wrong"
		}, volume.KindPrecondition, []string{"passphrase"}},
		"an odd value in the context": {
			mountCapability("ext4"), func(b *testNode, _ *fakeDisk) { b.context[volume.EncryptedKey] = "yes" },
			volume.KindInvalid,
			[]string{"encrypted", "yes"},
		},
		"a plain filesystem": {
			mountCapability("ext4"), func(_ *testNode, d *fakeDisk) { d.content = ext4Signature() }, volume.KindPrecondition,
			[]string{"ext4", "without encryption", "StorageClass"},
		},
		"unknown data": {
			mountCapability("ext4"), func(_ *testNode, d *fakeDisk) { d.content = noiseSignature() }, volume.KindPrecondition,
			[]string{"not blank", "random"},
		},
		"LUKS1": {
			mountCapability("ext4"), func(_ *testNode, d *fakeDisk) { d.luks.header = luks.Header{State: luks.HeaderLUKS1} },
			volume.KindPrecondition,
			[]string{"LUKS1"},
		},
		"another layout": {
			mountCapability("ext4"), func(_ *testNode, d *fakeDisk) { d.luks.header = luksHeader(luks.HeaderUnsupported) },
			volume.KindPrecondition,
			[]string{"another layout"},
		},
		"a damaged header": {
			mountCapability("ext4"), func(_ *testNode, d *fakeDisk) { d.luks.header = luksHeader(luks.HeaderDamaged) },
			volume.KindPrecondition,
			[]string{"damaged"},
		},
		"an unfinished one": {
			mountCapability("ext4"), func(_ *testNode, d *fakeDisk) { d.luks.header = luksHeader(luks.HeaderUnfinished) },
			volume.KindPrecondition,
			[]string{"without a key slot"},
		},
		"an unreadable header": {
			mountCapability("ext4"), func(b *testNode, _ *fakeDisk) { b.fail["luks-header"] = errors.New("EIO") },
			volume.KindInternal,
			[]string{"EIO"},
		},
		"a blank volume, read-only": {mountCapability("ext4", "ro"), nil, volume.KindPrecondition, []string{"read-only"}},
		"a raw one, read-only": {func() *csi.VolumeCapability {
			c := blockCapability()
			c.AccessMode.Mode = csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY
			return c
		}(), nil, volume.KindPrecondition, []string{"no LUKS2 header", "read-only"}},
		"a damaged header, read-only": {
			mountCapability("ext4", "ro"), func(_ *testNode, d *fakeDisk) { d.luks.header = luksHeader(luks.HeaderDamaged) },
			volume.KindPrecondition,
			[]string{"damaged"},
		},
		"a writable claim, a read-only disk": {mountCapability("ext4"), func(_ *testNode, d *fakeDisk) {
			d.readOnly = true
		}, volume.KindPrecondition, []string{"read-only"}},
		"noise in a mapping that was not just made": {mountCapability("ext4"), func(_ *testNode, d *fakeDisk) {
			d.luks.header, d.luks.passphrase, d.content = luksHeader(luks.HeaderSound), secret, noiseSignature()
		}, volume.KindPrecondition, []string{
			"random", "encrypted and never used", "another node", "delete the claim", "volumeMode: Block",
		}},
		"a partition table in the mapping": {mountCapability("ext4"), func(_ *testNode, d *fakeDisk) {
			d.luks.header, d.luks.passphrase = luksHeader(luks.HeaderSound), secret
			d.content = filesystem.Signature{
				State: filesystem.StateForeign, IsRecognized: true, Content: "partition table (GPT)",
			}
		}, volume.KindPrecondition, []string{"partition table", "volumeMode: Block", "delete the claim"}},
		"the same below a hypervisor that encrypts": {mountCapability("ext4"), func(_ *testNode, d *fakeDisk) {
			d.luks.header, d.luks.passphrase = luksHeader(luks.HeaderSound), secret
			d.content, d.conn.Encrypted = noiseSignature(), true
		}, volume.KindPrecondition, []string{"random"}},
		"a disk that is mounted itself": {
			mountCapability("ext4"), func(b *testNode, d *fakeDisk) { d.connected = true; b.addMount("/elsewhere", mountOf(d)) },
			volume.KindPrecondition,
			[]string{"/elsewhere"},
		},
		"another volume's disk": {
			mountCapability("ext4"), func(_ *testNode, d *fakeDisk) { d.serial = "vol-2" }, volume.KindPrecondition,
			[]string{"another volume"},
		},
		"a disk that is too small": {mountCapability("ext4"), func(_ *testNode, d *fakeDisk) {
			d.connected, d.deviceSize, d.ignoresRescan = true, volume.MiB, true
		}, volume.KindDeadline, []string{"1 MiB", "1 GiB"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newEncryptedTestNode(t, c.capability)
				d := b.add(b.id, volume.GiB)
				if c.prepare != nil {
					c.prepare(b, d)
				}
				content, hdr, mounts, connectedHere := d.content, d.luks.header, len(b.mounts), !d.connected
				timeout := time.Minute
				if c.kind == volume.KindDeadline {
					timeout = 50 * time.Millisecond
				}
				ctx, cancel := context.WithTimeout(t.Context(), timeout)
				defer cancel()
				err := b.stage(ctx)
				volumetest.WantKind(t, err, c.kind, append(c.words, b.id)...)
				if strings.Contains(err.Error(), secret) {
					t.Error("the passphrase is in the message")
				}
				if d.content != content || d.luks.header != hdr || len(b.mounts) != mounts {
					t.Errorf("content is now %s, header %s, mounts %v", d.content, d.luks.header, b.mounts)
				}
				if d.hasMapping() || d.connected == connectedHere {
					t.Errorf("left: a mapping %t, connected %t", d.hasMapping(), d.connected)
				}
			})
		})
	}
}

// Nodes that share a volume cannot agree on which of them makes the header.
func TestStageMakesNoHeaderOnASharedVolume(t *testing.T) {
	for _, mode := range []csi.VolumeCapability_AccessMode_Mode{
		csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER, csi.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER,
	} {
		b := newEncryptedTestNode(t, blockCapability())
		b.capability.AccessMode.Mode = mode
		d := b.add(b.id, volume.GiB)
		for _, state := range []luks.HeaderState{luks.HeaderAbsent, luks.HeaderUnfinished} {
			d.luks.header.State = state
			volumetest.WantKind(t, b.stage(t.Context()), volume.KindPrecondition, "several nodes", "one node", "next step")
			if b.countCalls("luks-format") != 0 || d.luks.header != (luks.Header{State: state}) {
				t.Errorf("%s: luksFormat was asked for; header %s", mode, d.luks.header)
			}
			wantClosed(t, b, d)
		}
		d.luks.header.State = luks.HeaderDamaged
		volumetest.WantKind(t, b.stage(t.Context()), volume.KindPrecondition, "damaged")
		d.luks.header = luks.Header{}
		b.capability = blockCapability()
		if err := errors.Join(b.stage(t.Context()), b.unstage(t.Context())); err != nil {
			t.Fatal(err)
		}
		b.capability.AccessMode.Mode = mode
		if err := b.stage(t.Context()); err != nil {
			t.Errorf("with a sound header: %v", err)
		}
	}
}

// An encrypted volume must not be taken for one with unknown data, whose message names the command
// that clears it.
func TestStageNamesTheEncryptionOfAVolumeWithoutTheParameter(t *testing.T) {
	for _, state := range []luks.HeaderState{
		luks.HeaderSound, luks.HeaderDamaged, luks.HeaderUnfinished, luks.HeaderLUKS1,
	} {
		b := newTestNode(t, mountCapability("ext4"))
		d := b.add(b.id, volume.GiB)
		d.luks.header = luksHeader(state)
		err := b.stage(t.Context())
		volumetest.WantKind(t, err, volume.KindPrecondition, "LUKS", "encrypted: \"true\"", "StorageClass", "left untouched")
		if strings.Contains(err.Error(), "wipefs") || d.luks.header != luksHeader(state) || d.connected {
			t.Errorf("%s: %v; header %s", state, err, d.luks.header)
		}
	}
}

// An interruption between luksFormat and the finished filesystem is resumed; noise counts as blank
// only with the marker as proof.
func TestStageResumesAnInterruptedEncryption(t *testing.T) {
	for _, call := range []string{"luks-open", "open", "probe", "format", "mount"} {
		t.Run("before "+call, func(t *testing.T) {
			b := newEncryptedTestNode(t, mountCapability("ext4"))
			d := b.add(b.id, volume.GiB)
			armed := call == "luks-open"
			b.hooks["luks-open"] = func() { armed = true }
			b.hooks[call] = func() {
				if armed {
					b.fail[call] = errors.New("crashed")
				}
			}
			if err := b.stage(t.Context()); err == nil {
				t.Fatal("not cut short")
			}
			wantClosed(t, b, d)
			clear(b.hooks)
			clear(b.fail)
			if call != "mount" {
				wantMarkers(t, b, true)
			}
			if err := b.stage(t.Context()); err != nil || d.content.State != filesystem.StateFormatted {
				t.Fatalf("%v; the volume holds %s", err, d.content)
			}
			wantMarkers(t, b, false)
		})
	}
	t.Run("in luksFormat", func(t *testing.T) {
		b := newEncryptedTestNode(t, mountCapability("ext4"))
		d := b.add(b.id, volume.GiB)
		d.luks.killNextFormat = true
		volumetest.WantKind(t, b.stage(t.Context()), volume.KindInternal, "killed")
		if err := b.stage(t.Context()); err != nil || d.content.State != filesystem.StateFormatted {
			t.Fatalf("%v; the volume holds %s", err, d.content)
		}
	})
	t.Run("when something else was written since", func(t *testing.T) {
		b := newEncryptedTestNode(t, mountCapability("ext4"))
		d := b.add(b.id, volume.GiB)
		d.luks.killNextFormat = true
		volumetest.WantKind(t, b.stage(t.Context()), volume.KindInternal, "killed")
		table := filesystem.Signature{State: filesystem.StateForeign, IsRecognized: true, Content: "partition table (GPT)"}
		d.luks.header, d.content = luks.Header{}, table
		volumetest.WantKind(t, b.stage(t.Context()), volume.KindPrecondition, "partition table")
		if d.content != table {
			t.Errorf("the volume holds %s", d.content)
		}
		d.content = noiseSignature() // of a luksFormat that has not come to its header
		if err := b.stage(t.Context()); err != nil || d.content.State != filesystem.StateFormatted {
			t.Errorf("%v; the volume holds %s", err, d.content)
		}
	})
	t.Run("when the marker is lost", func(t *testing.T) {
		b := newEncryptedTestNode(t, mountCapability("ext4"))
		d := b.add(b.id, volume.GiB)
		b.fail["format"] = errors.New("crashed")
		_ = b.stage(t.Context())
		delete(b.fail, "format")
		if err := os.Remove(b.encryptionMarker(b.id)); err != nil {
			t.Fatal(err)
		}
		volumetest.WantKind(t, b.stage(t.Context()), volume.KindPrecondition, "random")
		if d.content != noiseSignature() {
			t.Errorf("the volume holds %s", d.content)
		}
	})
}

// A blank disk that a hypervisor decrypts reads as noise.
func TestStageEncryptsOnADiskThatTheHypervisorEncrypts(t *testing.T) {
	b := newEncryptedTestNode(t, mountCapability("ext4"))
	d := b.add(b.id, volume.GiB)
	d.conn.Encrypted, d.content = true, noiseSignature()
	if err := b.stage(t.Context()); err != nil || d.content.State != filesystem.StateFormatted {
		t.Errorf("%v; the volume holds %s", err, d.content)
	}
}

// The disk is verified directly before what cannot be undone: after the wait for the disk, and
// again before the passphrase is used.
func TestStageVerifiesTheDiskBeforeItEncrypts(t *testing.T) {
	for _, call := range []string{"await", "luks-format"} {
		b := newEncryptedTestNode(t, mountCapability("ext4"))
		d := b.add(b.id, volume.GiB)
		b.hooks[call] = func() { d.serial = "vol-2" } // another disk in its place
		volumetest.WantKind(t, b.stage(t.Context()), volume.KindPrecondition, "another volume")
		if call == "await" && b.countCalls("luks-format") != 0 || b.countCalls("luks-open") != 0 {
			t.Errorf("%s: another volume's disk was given to cryptsetup", call)
		}
	}
}

// As for the disk: a mapping that several nodes read must refuse writes; one that this node alone
// reads must not, because the kernel replays its journal.
func TestMappingIsReadOnlyForSharedReaders(t *testing.T) {
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

func TestStageRefusesAMappingInTheOtherMode(t *testing.T) {
	b := newEncryptedTestNode(t, mountCapability("ext4"))
	b.stageAndPublish(t, volume.GiB)
	b.capability = mountCapability("ext4")
	b.capability.AccessMode.Mode = csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY
	volumetest.WantKind(t, b.stage(t.Context()), volume.KindAlreadyExists, "read-only")
}

// A mapping that another program has opened, and that is mounted at the staging path, counts as
// staged, also after a restart of kubelet.
func TestStageUsesAMappingThatAnotherProgramHasOpened(t *testing.T) {
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
