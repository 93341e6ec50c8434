package e2e

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/operation"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/growvol/growvol/pkg/luks"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/must"
)

const luksHeader = int64(luks.DataOffset)

// createEncrypted creates a volume of a StorageClass with the parameter encrypted,
// whose calls get the passphrase.
func createEncrypted(
	t *testing.T, d *csiclient.Deployment, name string, size int64, capability *csi.VolumeCapability, source *csi.VolumeContentSource,
) *csiclient.Volume {
	t.Helper()
	class := map[string]string{volume.EncryptedKey: "true"}
	v := must.Value(d.CreateWithParameters(t.Context(), class, name, size, capability, source))(t)
	v.Secrets = map[string]string{"passphrase": passphrase}
	return v
}

// withoutSecrets is the volume without the secrets.
func withoutSecrets(v *csiclient.Volume) *csiclient.Volume {
	bare := *v
	bare.Secrets = nil
	return &bare
}

// Growths of an encrypted volume under a writer, without the passphrase, also
// by a node plugin that has restarted; nothing that was written can be read in
// the backing file.
func TestExpandEncryptedInUse(t *testing.T) {
	for _, fstype := range []string{"ext4", "xfs"} {
		t.Run(fstype, func(t *testing.T) {
			d, ctx := deploy(t), t.Context()
			v := createEncrypted(t, d, volumeName(t), gib, csiclient.MountCapability(fstype), nil)
			must.Succeed(t, d.Use(ctx, v))
			wantSize(t, v, gib-luksHeader)
			w := csiclient.StartWriter(ctx, v.Target, 60<<20, time.Millisecond)
			mapping := mountedDevice(t, v.Staging)
			for _, size := range []int64{2 * gib, 3*gib + 512<<20} {
				must.Succeed(t, d.Use(ctx, v)) // repeated calls find it done
				e := must.Value(d.Expand(ctx, withoutSecrets(v), size))(t)
				if e.ControllerSize != size || e.NodeSize != size {
					t.Errorf("expanded to %s: controller says %s, node %s", formatSize(size), formatSize(e.ControllerSize), formatSize(e.NodeSize))
				}
				wantSize(t, v, size-luksHeader)
				total, _, err := d.Stats(ctx, v)
				must.Succeed(t, err)
				if total < size*9/10 {
					t.Errorf("right after the growth to %s the stats say %s", formatSize(size), formatSize(total))
				}
				d.NodePlugin.Kill()
				must.Succeed(t, d.StartNode(ctx))
			}
			must.Succeed(t, d.Use(ctx, v))
			if now := mountedDevice(t, v.Staging); now != mapping {
				t.Errorf("staged on %s, and then on %s", mapping, now)
			}
			wantCiphertext(t, d, v)
			n := verifyAndDelete(t, d, v, w, fstype)
			t.Logf("%s on LUKS2: 1 → 3.5 GiB in two growths; %s verified", fstype, formatSize(n))
		})
	}
}

// wantCiphertext writes a text on the published volume and fails the test if
// it can be found in the backing file, or if the same search does not find it
// in that of a plain volume.
func wantCiphertext(t *testing.T, d *csiclient.Deployment, v *csiclient.Volume) {
	t.Helper()
	ctx := t.Context()
	text := []byte("a text that nobody may read in the backing file, in a block of its own")
	plain := must.Value(d.Create(ctx, volumeName(t)+"-plain", 64<<20, csiclient.MountCapability("ext4"), nil))(t)
	must.Succeed(t, d.Use(ctx, plain))
	for _, target := range []string{v.Target, plain.Target} {
		f := must.Value(os.Create(filepath.Join(target, "text")))(t)
		must.Value(f.Write(bytes.Repeat(text, 10_000)))(t)
		must.Succeed(t, errors.Join(f.Sync(), f.Close()))
	}
	for _, c := range []struct {
		volume *csiclient.Volume
		want   bool
	}{{v, false}, {plain, true}} {
		if found := fileContains(t, backingFile(d, c.volume), text); found != c.want {
			t.Errorf("the text is in the backing file of %s: %t, want %t", c.volume.Name, found, c.want)
		}
	}
	must.Succeed(t, d.Release(ctx, plain))
	must.Succeed(t, d.Delete(ctx, plain))
}

func backingFile(d *csiclient.Deployment, v *csiclient.Volume) string {
	return filepath.Join(filepath.Dir(d.Dir), "volumes", "volumes", v.ID, "data")
}

// fileContains reports whether a text is in a sparse file.
func fileContains(t *testing.T, path string, text []byte) bool {
	t.Helper()
	f := must.Value(os.Open(path))(t)
	defer f.Close() //nolint:errcheck // only read from
	for at := int64(0); ; {
		start, err := f.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return false
		}
		must.Succeed(t, err)
		at = must.Value(f.Seek(start, unix.SEEK_HOLE))(t)
		data := make([]byte, at-start)
		if _, err := f.ReadAt(data, start); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		if bytes.Contains(data, text) {
			return true
		}
	}
}

// A raw volume is its mapping: what a pod writes is read back after another
// stage, it grows with its device, and its mapping is nowhere too short.
func TestExpandEncryptedRawBlock(t *testing.T) {
	d, ctx := deploy(t), t.Context()
	v := createEncrypted(t, d, volumeName(t), gib, csiclient.BlockCapability(), nil)
	must.Succeed(t, d.Use(ctx, v))
	f := must.Value(os.OpenFile(v.Target, os.O_RDWR, 0))(t)
	pattern := []byte("data at the end of the device that nobody may read in the backing file")
	wantEnd := func(size int64) {
		t.Helper()
		if end := must.Value(f.Seek(0, io.SeekEnd))(t); end != size-luksHeader {
			t.Fatalf("the open device ends at %s, want %s less the header", formatSize(end), formatSize(size))
		}
		must.Value(f.WriteAt(pattern, size-luksHeader-4096))(t)
	}
	wantEnd(gib)
	if e := must.Value(d.Expand(ctx, withoutSecrets(v), 2*gib))(t); e.NodeSize != 2*gib {
		t.Errorf("node says %s", formatSize(e.NodeSize))
	}
	wantEnd(2 * gib)
	// The device grows, and nobody tells the node.
	must.Succeed(t, d.ExpandController(ctx, v, 3*gib))
	must.Succeed(t, runCommand(t, "losetup", "-c", loopDeviceOf(t, v).Path))
	waitUntil(t, func() bool { return must.Value(f.Seek(0, io.SeekEnd))(t) == 3*gib-luksHeader })
	wantEnd(3 * gib)
	must.Succeed(t, errors.Join(f.Sync(), f.Close()))
	total, _, err := d.Stats(ctx, v)
	if err != nil || total != 3*gib-luksHeader {
		t.Errorf("stats %s, %v", formatSize(total), err)
	}
	if fileContains(t, backingFile(d, v), pattern) {
		t.Error("what the pod wrote is in the backing file as it is")
	}
	must.Succeed(t, d.Release(ctx, v))
	must.Succeed(t, d.Use(ctx, v))
	f = must.Value(os.Open(v.Target))(t)
	for _, size := range []int64{gib, 2 * gib, 3 * gib} {
		back := make([]byte, len(pattern))
		if _, err := f.ReadAt(back, size-luksHeader-4096); err != nil || !bytes.Equal(back, pattern) {
			t.Errorf("at the end of %s: %q, %v", formatSize(size), back, err)
		}
	}
	must.Succeed(t, f.Close())
	must.Succeed(t, d.Release(ctx, v))
	// Noise that may be somebody's data is never formatted.
	mounted := *v
	mounted.Capability = csiclient.MountCapability("ext4")
	must.Succeed(t, d.Attach(ctx, v))
	must.FailWith(t, d.Stage(ctx, &mounted), codes.FailedPrecondition, v.ID, "holds no filesystem", "left untouched", "next step")
	must.Succeed(t, d.Detach(ctx, v))
	must.Succeed(t, d.Delete(ctx, v))
}

// Read-only: a raw volume's mapping refuses writes as its disk does. A
// filesystem that one node reads keeps a writable mapping, so that the kernel
// can replay the journal of a writer that was cut off.
func TestReadOnlyStageOfEncryptedVolumes(t *testing.T) {
	d, ctx := deploy(t), t.Context()
	readOnly := func(v *csiclient.Volume, capability *csi.VolumeCapability) *csiclient.Volume {
		reader := *v
		reader.Capability = capability
		reader.Capability.AccessMode.Mode = csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY
		return &reader
	}
	raw := createEncrypted(t, d, volumeName(t)+"-raw", gib, csiclient.BlockCapability(), nil)
	must.Succeed(t, d.Use(ctx, raw))
	must.Succeed(t, os.WriteFile(raw.Target, []byte(passphrase), 0o600))
	must.Succeed(t, d.Release(ctx, raw))
	reader := readOnly(raw, csiclient.BlockCapability())
	must.Succeed(t, d.Use(ctx, reader))
	must.Succeed(t, d.Stage(ctx, reader))
	wantMappingReadOnly(t, true)
	f := must.Value(os.Open(raw.Target))(t)
	back := make([]byte, len(passphrase))
	if _, err := f.ReadAt(back, 0); err != nil || string(back) != passphrase {
		t.Errorf("read %q, %v", back, err)
	}
	must.Succeed(t, f.Close())
	if f, err := os.OpenFile(raw.Target, os.O_WRONLY, 0); err == nil {
		if _, err = f.WriteAt(back, 0); err == nil {
			err = f.Sync()
		}
		if errors.Join(err, f.Close()) == nil {
			t.Error("a mapping that was staged read-only was written to")
		}
	}
	must.Succeed(t, d.Release(ctx, reader))
	must.Succeed(t, d.Delete(ctx, raw))

	v := createEncrypted(t, d, volumeName(t), gib, csiclient.MountCapability("ext4"), nil)
	must.Succeed(t, d.Use(ctx, v))
	w := csiclient.StartWriter(ctx, v.Target, 4<<20, 0)
	must.Succeed(t, w.WaitUntilFull())
	must.Succeed(t, d.Release(ctx, v))
	reader = readOnly(v, csiclient.MountCapability("ext4"))
	must.Succeed(t, d.Use(ctx, reader))
	wantMappingReadOnly(t, false)
	must.Value(w.Verify(v.Target))(t)
	if err := os.WriteFile(filepath.Join(v.Target, "new"), nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("a file was made on a read-only volume: %v", err)
	}
	must.Succeed(t, d.Release(ctx, reader))
	must.Succeed(t, d.Delete(ctx, v))
}

// wantMappingReadOnly checks the only mapping.
func wantMappingReadOnly(t *testing.T, want bool) {
	t.Helper()
	wantMappings(t, 1)
	found := must.Value(filepath.Glob("/sys/block/dm-*/ro"))(t)
	text := must.Value(os.ReadFile(found[0]))(t)
	if got := strings.TrimSpace(string(text)) == "1"; got != want {
		t.Errorf("the mapping is read-only: %t, want %t", got, want)
	}
}

// waitUntil waits until a condition is true.
func waitUntil(t *testing.T, is func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for !is() {
		if operation.Sleep(ctx, 10*time.Millisecond) != nil {
			t.Fatal("it has not come true in time")
		}
	}
}

// A wrong passphrase, none, and volumes that are encrypted otherwise: refused,
// with nothing changed and nothing left.
func TestStageRefusesWrongPassphrasesAndUnencryptedVolumes(t *testing.T) {
	d, ctx := deploy(t), t.Context()
	v := createEncrypted(t, d, volumeName(t), gib, csiclient.MountCapability("ext4"), nil)
	must.Succeed(t, d.Attach(ctx, v))
	must.FailWith(t, d.Stage(ctx, withoutSecrets(v)), codes.InvalidArgument, v.ID, "node-stage-secret-name")
	must.Succeed(t, d.Use(ctx, v))
	w := csiclient.StartWriter(ctx, v.Target, 4<<20, 0)
	must.Succeed(t, w.WaitUntilFull())
	must.Succeed(t, d.Release(ctx, v))
	must.Succeed(t, d.Attach(ctx, v))
	wrong := *v
	wrong.Secrets = map[string]string{"passphrase": "another secret"}
	err := d.Stage(ctx, &wrong)
	must.FailWith(t, err, codes.FailedPrecondition, v.ID, "passphrase", "next step")
	if strings.Contains(err.Error(), "another secret") {
		t.Error("the passphrase is in the message")
	}
	bare := withoutSecrets(v)
	bare.VolumeContext = nil
	must.FailWith(t, d.Stage(ctx, bare), codes.FailedPrecondition, v.ID, "LUKS2", "encrypted")

	plain := must.Value(d.Create(ctx, volumeName(t)+"-plain", gib, csiclient.MountCapability("ext4"), nil))(t)
	must.Succeed(t, d.Use(ctx, plain))
	must.Succeed(t, d.Release(ctx, plain))
	c := createEncrypted(t, d, volumeName(t)+"-clone", gib, csiclient.MountCapability("ext4"), cloneSource(plain))
	must.Succeed(t, d.Attach(ctx, c))
	must.FailWith(t, d.Stage(ctx, c), codes.FailedPrecondition, c.ID, "without encryption", "next step")

	must.Succeed(t, d.Use(ctx, v))
	must.Value(w.Verify(v.Target))(t)
	ofClone := func(path string) bool { return strings.Contains(path, "/state/") && strings.Contains(path, c.ID) }
	if left := must.Value(d.Leftovers())(t); slices.ContainsFunc(left, ofClone) {
		t.Errorf("left of the refused volume: %v", left)
	}
	must.Succeed(t, d.Release(ctx, v))
	for _, v := range []*csiclient.Volume{c, v, plain} {
		must.Succeed(t, d.Detach(ctx, v))
		must.Succeed(t, d.Delete(ctx, v))
	}
	log := must.Value(os.ReadFile(filepath.Join(filepath.Dir(d.Dir), "plugins.log")))(t)
	for _, secret := range []string{passphrase, "another secret"} {
		if bytes.Contains(log, []byte(secret)) {
			t.Error("a passphrase is in the log")
		}
	}
}

func cloneSource(v *csiclient.Volume) *csi.VolumeContentSource {
	return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: v.ID}}}
}

func snapshotSource(snap *csi.Snapshot) *csi.VolumeContentSource {
	return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
		Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: snap.GetSnapshotId()},
	}}
}

// Copies of an encrypted volume have its header and passphrase. Larger ones
// grow at stage, beside their source.
func TestStageGrowsLargerEncryptedCopies(t *testing.T) {
	for _, fstype := range []string{"xfs"} { // TestLargerCloneAndRestoreGrowAtStage has both
		t.Run(fstype, func(t *testing.T) {
			d, ctx := deploy(t), t.Context()
			v := createEncrypted(t, d, volumeName(t), gib, csiclient.MountCapability(fstype), nil)
			must.Succeed(t, d.Use(ctx, v))
			w := csiclient.StartWriter(ctx, v.Target, 8<<20, 0)
			must.Succeed(t, w.WaitUntilFull())
			must.Succeed(t, d.Release(ctx, v))
			snap := must.Value(d.Controller.CreateSnapshot(ctx, &csi.CreateSnapshotRequest{SourceVolumeId: v.ID, Name: "snap-" + volumeName(t)}))(t).GetSnapshot()
			var copies []*csiclient.Volume
			for kind, src := range map[string]*csi.VolumeContentSource{"clone": cloneSource(v), "restore": snapshotSource(snap)} {
				copies = append(copies, createEncrypted(t, d, volumeName(t)+"-"+kind, 3*gib, csiclient.MountCapability(fstype), src))
			}
			must.Succeed(t, d.Use(ctx, v))
			for _, c := range copies {
				must.Succeed(t, d.Use(ctx, c))
				wantSize(t, c, 3*gib-luksHeader)
				if _, err := w.Verify(c.Target); err != nil {
					t.Errorf("%s: %v", c.Name, err)
				}
				must.Succeed(t, d.Release(ctx, c))
				must.Succeed(t, d.Delete(ctx, c))
			}
			must.Value(d.Controller.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: snap.GetSnapshotId()}))(t)
			must.Succeed(t, d.Release(ctx, v))
			must.Succeed(t, d.Delete(ctx, v))
		})
	}
}
