package road

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
	"github.com/growvol/growvol/tests/co"
)

const luksHeader = int64(luks.DataOffset)

// encrypted creates a volume of a StorageClass with the parameter encrypted,
// whose calls get the passphrase.
func encrypted(
	t *testing.T, d *co.Deployment, name string, size int64, capability *csi.VolumeCapability, source *csi.VolumeContentSource,
) *co.Volume {
	t.Helper()
	class := map[string]string{volume.EncryptedKey: "true"}
	v := get(d.CreateWith(t.Context(), class, name, size, capability, source))(t)
	v.Secrets = map[string]string{"passphrase": passphrase}
	return v
}

// without is the volume without the secrets.
func without(v *co.Volume) *co.Volume {
	bare := *v
	bare.Secrets = nil
	return &bare
}

// Growths of an encrypted volume under a writer, without the passphrase, also
// by a node plugin that has restarted; nothing that was written can be read in
// the backing file.
func TestEncryptedGrowthInUse(t *testing.T) {
	for _, fstype := range []string{"ext4", "xfs"} {
		t.Run(fstype, func(t *testing.T) {
			d, ctx := deploy(t), t.Context()
			v := encrypted(t, d, name(t), gib, co.Mount(fstype), nil)
			must(t, d.Use(ctx, v))
			wantGrown(t, v, gib-luksHeader)
			w := co.StartWriter(ctx, v.Target, 60<<20, time.Millisecond)
			mapping := source(t, v.Staging)
			for _, size := range []int64{2 * gib, 3*gib + 512<<20} {
				must(t, d.Use(ctx, v)) // repeated calls find it done
				e := get(d.Expand(ctx, without(v), size))(t)
				if e.ControllerSize != size || e.NodeSize != size {
					t.Errorf("expanded to %s: controller says %s, node %s", short(size), short(e.ControllerSize), short(e.NodeSize))
				}
				wantGrown(t, v, size-luksHeader)
				total, _, err := d.Stats(ctx, v)
				must(t, err)
				if total < size*9/10 {
					t.Errorf("right after the growth to %s the stats say %s", short(size), short(total))
				}
				d.Node.Kill()
				must(t, d.StartNode(ctx))
			}
			must(t, d.Use(ctx, v))
			if now := source(t, v.Staging); now != mapping {
				t.Errorf("staged on %s, and then on %s", mapping, now)
			}
			wantCiphertext(t, d, v)
			n := finish(t, d, v, w, fstype)
			t.Logf("%s on LUKS2: 1 → 3.5 GiB in two growths; %s verified", fstype, short(n))
		})
	}
}

// wantCiphertext writes a text on the published volume and fails the test if
// it can be found in the backing file, or if the same search does not find it
// in that of a plain volume.
func wantCiphertext(t *testing.T, d *co.Deployment, v *co.Volume) {
	t.Helper()
	ctx := t.Context()
	text := []byte("a text that nobody may read in the backing file, in a block of its own")
	plain := get(d.Create(ctx, name(t)+"-plain", 64<<20, co.Mount("ext4"), nil))(t)
	must(t, d.Use(ctx, plain))
	for _, target := range []string{v.Target, plain.Target} {
		f := get(os.Create(filepath.Join(target, "text")))(t)
		get(f.Write(bytes.Repeat(text, 10_000)))(t)
		must(t, errors.Join(f.Sync(), f.Close()))
	}
	for _, c := range []struct {
		volume *co.Volume
		want   bool
	}{{v, false}, {plain, true}} {
		if found := contains(t, backingFile(d, c.volume), text); found != c.want {
			t.Errorf("the text is in the backing file of %s: %t, want %t", c.volume.Name, found, c.want)
		}
	}
	must(t, d.Release(ctx, plain))
	must(t, d.Delete(ctx, plain))
}

func backingFile(d *co.Deployment, v *co.Volume) string {
	return filepath.Join(filepath.Dir(d.Dir), "volumes", "volumes", v.ID, "data")
}

// contains reports whether a text is in a sparse file.
func contains(t *testing.T, path string, text []byte) bool {
	t.Helper()
	f := get(os.Open(path))(t)
	defer f.Close() //nolint:errcheck // only read from
	for at := int64(0); ; {
		start, err := f.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return false
		}
		must(t, err)
		at = get(f.Seek(start, unix.SEEK_HOLE))(t)
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
func TestEncryptedRawBlock(t *testing.T) {
	d, ctx := deploy(t), t.Context()
	v := encrypted(t, d, name(t), gib, co.Block(), nil)
	must(t, d.Use(ctx, v))
	f := get(os.OpenFile(v.Target, os.O_RDWR, 0))(t)
	pattern := []byte("data at the end of the device that nobody may read in the backing file")
	wantEnd := func(size int64) {
		t.Helper()
		if end := get(f.Seek(0, io.SeekEnd))(t); end != size-luksHeader {
			t.Fatalf("the open device ends at %s, want %s less the header", short(end), short(size))
		}
		get(f.WriteAt(pattern, size-luksHeader-4096))(t)
	}
	wantEnd(gib)
	if e := get(d.Expand(ctx, without(v), 2*gib))(t); e.NodeSize != 2*gib {
		t.Errorf("node says %s", short(e.NodeSize))
	}
	wantEnd(2 * gib)
	// The device grows, and nobody tells the node.
	must(t, d.ExpandController(ctx, v, 3*gib))
	must(t, command(t, "losetup", "-c", connected(t, v).Path))
	eventually(t, func() bool { return get(f.Seek(0, io.SeekEnd))(t) == 3*gib-luksHeader })
	wantEnd(3 * gib)
	must(t, errors.Join(f.Sync(), f.Close()))
	total, _, err := d.Stats(ctx, v)
	if err != nil || total != 3*gib-luksHeader {
		t.Errorf("stats %s, %v", short(total), err)
	}
	if contains(t, backingFile(d, v), pattern) {
		t.Error("what the pod wrote is in the backing file as it is")
	}
	must(t, d.Release(ctx, v))
	must(t, d.Use(ctx, v))
	f = get(os.Open(v.Target))(t)
	for _, size := range []int64{gib, 2 * gib, 3 * gib} {
		back := make([]byte, len(pattern))
		if _, err := f.ReadAt(back, size-luksHeader-4096); err != nil || !bytes.Equal(back, pattern) {
			t.Errorf("at the end of %s: %q, %v", short(size), back, err)
		}
	}
	must(t, f.Close())
	must(t, d.Release(ctx, v))
	// Noise that may be somebody's data is never formatted.
	mounted := *v
	mounted.Capability = co.Mount("ext4")
	must(t, d.Attach(ctx, v))
	wantCode(t, d.Stage(ctx, &mounted), codes.FailedPrecondition, v.ID, "holds no filesystem", "left untouched", "next step")
	must(t, d.Detach(ctx, v))
	must(t, d.Delete(ctx, v))
}

// Read-only: a raw volume's mapping refuses writes as its disk does. A
// filesystem that one node reads keeps a writable mapping, so that the kernel
// can replay the journal of a writer that was cut off.
func TestEncryptedReadOnly(t *testing.T) {
	d, ctx := deploy(t), t.Context()
	readOnly := func(v *co.Volume, capability *csi.VolumeCapability) *co.Volume {
		reader := *v
		reader.Capability = capability
		reader.Capability.AccessMode.Mode = csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY
		return &reader
	}
	raw := encrypted(t, d, name(t)+"-raw", gib, co.Block(), nil)
	must(t, d.Use(ctx, raw))
	must(t, os.WriteFile(raw.Target, []byte(passphrase), 0o600))
	must(t, d.Release(ctx, raw))
	reader := readOnly(raw, co.Block())
	must(t, d.Use(ctx, reader))
	must(t, d.Stage(ctx, reader))
	wantMappingReadOnly(t, true)
	f := get(os.Open(raw.Target))(t)
	back := make([]byte, len(passphrase))
	if _, err := f.ReadAt(back, 0); err != nil || string(back) != passphrase {
		t.Errorf("read %q, %v", back, err)
	}
	must(t, f.Close())
	if f, err := os.OpenFile(raw.Target, os.O_WRONLY, 0); err == nil {
		if _, err = f.WriteAt(back, 0); err == nil {
			err = f.Sync()
		}
		if errors.Join(err, f.Close()) == nil {
			t.Error("a mapping that was staged read-only was written to")
		}
	}
	must(t, d.Release(ctx, reader))
	must(t, d.Delete(ctx, raw))

	v := encrypted(t, d, name(t), gib, co.Mount("ext4"), nil)
	must(t, d.Use(ctx, v))
	w := co.StartWriter(ctx, v.Target, 4<<20, 0)
	must(t, w.Fill())
	must(t, d.Release(ctx, v))
	reader = readOnly(v, co.Mount("ext4"))
	must(t, d.Use(ctx, reader))
	wantMappingReadOnly(t, false)
	get(w.Verify(v.Target))(t)
	if err := os.WriteFile(filepath.Join(v.Target, "new"), nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("a file was made on a read-only volume: %v", err)
	}
	must(t, d.Release(ctx, reader))
	must(t, d.Delete(ctx, v))
}

// wantMappingReadOnly checks the only mapping.
func wantMappingReadOnly(t *testing.T, want bool) {
	t.Helper()
	wantMappings(t, 1)
	found := get(filepath.Glob("/sys/block/dm-*/ro"))(t)
	text := get(os.ReadFile(found[0]))(t)
	if got := strings.TrimSpace(string(text)) == "1"; got != want {
		t.Errorf("the mapping is read-only: %t, want %t", got, want)
	}
}

// eventually waits until a condition is true.
func eventually(t *testing.T, is func() bool) {
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
func TestEncryptedRefusals(t *testing.T) {
	d, ctx := deploy(t), t.Context()
	v := encrypted(t, d, name(t), gib, co.Mount("ext4"), nil)
	must(t, d.Attach(ctx, v))
	wantCode(t, d.Stage(ctx, without(v)), codes.InvalidArgument, v.ID, "node-stage-secret-name")
	must(t, d.Use(ctx, v))
	w := co.StartWriter(ctx, v.Target, 4<<20, 0)
	must(t, w.Fill())
	must(t, d.Release(ctx, v))
	must(t, d.Attach(ctx, v))
	wrong := *v
	wrong.Secrets = map[string]string{"passphrase": "another secret"}
	err := d.Stage(ctx, &wrong)
	wantCode(t, err, codes.FailedPrecondition, v.ID, "passphrase", "next step")
	if strings.Contains(err.Error(), "another secret") {
		t.Error("the passphrase is in the message")
	}
	bare := without(v)
	bare.Context = nil
	wantCode(t, d.Stage(ctx, bare), codes.FailedPrecondition, v.ID, "LUKS2", "encrypted")

	plain := get(d.Create(ctx, name(t)+"-plain", gib, co.Mount("ext4"), nil))(t)
	must(t, d.Use(ctx, plain))
	must(t, d.Release(ctx, plain))
	c := encrypted(t, d, name(t)+"-clone", gib, co.Mount("ext4"), cloneOf(plain))
	must(t, d.Attach(ctx, c))
	wantCode(t, d.Stage(ctx, c), codes.FailedPrecondition, c.ID, "without encryption", "next step")

	must(t, d.Use(ctx, v))
	get(w.Verify(v.Target))(t)
	ofClone := func(path string) bool { return strings.Contains(path, "/state/") && strings.Contains(path, c.ID) }
	if left := get(d.Leftovers())(t); slices.ContainsFunc(left, ofClone) {
		t.Errorf("left of the refused volume: %v", left)
	}
	must(t, d.Release(ctx, v))
	for _, v := range []*co.Volume{c, v, plain} {
		must(t, d.Detach(ctx, v))
		must(t, d.Delete(ctx, v))
	}
	log := get(os.ReadFile(filepath.Join(filepath.Dir(d.Dir), "plugins.log")))(t)
	for _, secret := range []string{passphrase, "another secret"} {
		if bytes.Contains(log, []byte(secret)) {
			t.Error("a passphrase is in the log")
		}
	}
}

func cloneOf(v *co.Volume) *csi.VolumeContentSource {
	return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: v.ID}}}
}

func restoreOf(snap *csi.Snapshot) *csi.VolumeContentSource {
	return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
		Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: snap.GetSnapshotId()},
	}}
}

// Copies of an encrypted volume have its header and passphrase. Larger ones
// grow at stage, beside their source.
func TestEncryptedCloneAndRestoreGrowAtStage(t *testing.T) {
	for _, fstype := range []string{"xfs"} { // TestLargerCloneAndRestoreGrowAtStage has both
		t.Run(fstype, func(t *testing.T) {
			d, ctx := deploy(t), t.Context()
			v := encrypted(t, d, name(t), gib, co.Mount(fstype), nil)
			must(t, d.Use(ctx, v))
			w := co.StartWriter(ctx, v.Target, 8<<20, 0)
			must(t, w.Fill())
			must(t, d.Release(ctx, v))
			snap := get(d.Driver.Controller.CreateSnapshot(ctx, &csi.CreateSnapshotRequest{SourceVolumeId: v.ID, Name: "snap-" + name(t)}))(t).GetSnapshot()
			var copies []*co.Volume
			for kind, src := range map[string]*csi.VolumeContentSource{"clone": cloneOf(v), "restore": restoreOf(snap)} {
				copies = append(copies, encrypted(t, d, name(t)+"-"+kind, 3*gib, co.Mount(fstype), src))
			}
			must(t, d.Use(ctx, v))
			for _, c := range copies {
				must(t, d.Use(ctx, c))
				wantGrown(t, c, 3*gib-luksHeader)
				if _, err := w.Verify(c.Target); err != nil {
					t.Errorf("%s: %v", c.Name, err)
				}
				must(t, d.Release(ctx, c))
				must(t, d.Delete(ctx, c))
			}
			get(d.Driver.Controller.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: snap.GetSnapshotId()}))(t)
			must(t, d.Release(ctx, v))
			must(t, d.Delete(ctx, v))
		})
	}
}
