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

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/growvol/growvol/pkg/luks"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/must"
)

// luksHeader is how many bytes a mapping is smaller than its volume.
const luksHeader = int64(luks.DataOffset)

// createEncrypted creates a volume of a class with the parameter "encrypted". Its calls
// send the passphrase.
func createEncrypted(
	t *testing.T, d *csiclient.Deployment, name string, size int64,
	capability *csi.VolumeCapability, source *csi.VolumeContentSource,
) *csiclient.Volume {
	t.Helper()
	class := map[string]string{volume.EncryptedKey: "true"}
	v := must.Value(d.CreateWithParameters(t.Context(), class, name, size, capability, source))(t)
	v.Secrets = map[string]string{"passphrase": passphrase}
	return v
}

// withoutSecrets returns a copy of the volume whose calls send no secrets.
func withoutSecrets(v *csiclient.Volume) *csiclient.Volume {
	other := *v
	other.Secrets = nil
	return &other
}

// An encrypted volume grows under a writer without the passphrase, also when the node
// plugin has been restarted. Nothing that was written is readable in the backing file.
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
				must.Succeed(t, d.Use(ctx, v)) // a repeated call succeeds
				wantExpand(t, d, withoutSecrets(v), size)
				wantSize(t, v, size-luksHeader)
				wantStats(t, d, v, size)
				d.NodePlugin.Kill()
				must.Succeed(t, d.StartNode(ctx))
			}
			must.Succeed(t, d.Use(ctx, v))
			if got := mountedDevice(t, v.Staging); got != mapping {
				t.Errorf("got the volume staged on %s, want the same device as before: %s", got, mapping)
			}
			wantCiphertext(t, d, v)
			n := verifyAndDelete(t, d, v, w, fstype)
			t.Logf("%s on LUKS2: 1 → 3.5 GiB in two growths; %s verified", fstype, formatSize(n))
		})
	}
}

// wantCiphertext writes a text to the published volume and fails the test if the
// backing file contains the text, or if the same search does not find the text in the
// backing file of a volume without encryption.
func wantCiphertext(t *testing.T, d *csiclient.Deployment, v *csiclient.Volume) {
	t.Helper()
	text := []byte("a text that must not be readable in the backing file, in a block of its own")
	plain := createAndUse(t, d, volumeName(t)+"-plain", 64<<20, csiclient.MountCapability("ext4"))
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
			t.Errorf("%s: got the text in the backing file: %t, want %t", c.volume.Name, found, c.want)
		}
	}
	releaseAndDelete(t, d, plain)
}

// backingFile returns the path of the file in which the loop backend stores the
// volume.
func backingFile(d *csiclient.Deployment, v *csiclient.Volume) string {
	return filepath.Join(filepath.Dir(d.Dir), "volumes", "volumes", v.ID, "data")
}

// fileContains reports whether text is in a sparse file, in one of its extents.
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

// A raw encrypted volume shows its mapping: the mapping grows with the device, what a
// pod writes is read back after another stage, and the backing file holds only
// ciphertext.
func TestExpandEncryptedRawBlock(t *testing.T) {
	d, ctx := deploy(t), t.Context()
	v := createEncrypted(t, d, volumeName(t), gib, csiclient.BlockCapability(), nil)
	must.Succeed(t, d.Use(ctx, v))
	f := must.Value(os.OpenFile(v.Target, os.O_RDWR, 0))(t)
	pattern := []byte("data at the end of the device that must not be readable in the backing file")
	wantEnd := func(size int64) {
		t.Helper()
		if end := must.Value(f.Seek(0, io.SeekEnd))(t); end != size-luksHeader {
			t.Fatalf("got the end of the open device at %s, want %s", formatSize(end), formatSize(size-luksHeader))
		}
		must.Value(f.WriteAt(pattern, size-luksHeader-4096))(t)
	}
	wantEnd(gib)
	wantExpand(t, d, withoutSecrets(v), 2*gib)
	wantEnd(2 * gib)
	// The device grows without a call of NodeExpandVolume.
	growDevice(t, d, v, loopDeviceOf(t, v), 3*gib)
	waitUntil(t, "the open device has grown", func() bool {
		return must.Value(f.Seek(0, io.SeekEnd))(t) == 3*gib-luksHeader
	})
	wantEnd(3 * gib)
	must.Succeed(t, errors.Join(f.Sync(), f.Close()))
	total, _, err := d.Stats(ctx, v)
	if err != nil || total != 3*gib-luksHeader {
		t.Errorf("got stats of %s, %v; want %s", formatSize(total), err, formatSize(3*gib-luksHeader))
	}
	if fileContains(t, backingFile(d, v), pattern) {
		t.Error("the backing file contains the plain text that the pod wrote")
	}
	must.Succeed(t, d.Release(ctx, v))
	must.Succeed(t, d.Use(ctx, v))
	f = must.Value(os.Open(v.Target))(t)
	for _, size := range []int64{gib, 2 * gib, 3 * gib} {
		back := make([]byte, len(pattern))
		if _, err := f.ReadAt(back, size-luksHeader-4096); err != nil || !bytes.Equal(back, pattern) {
			t.Errorf("at the end of %s: got %q, %v; want %q", formatSize(size), back, err, pattern)
		}
	}
	must.Succeed(t, f.Close())
	must.Succeed(t, d.Release(ctx, v))
	// The mapping shows unknown data: it is not formatted.
	mounted := *v
	mounted.Capability = csiclient.MountCapability("ext4")
	must.Succeed(t, d.Attach(ctx, v))
	must.FailWith(t, d.Stage(ctx, &mounted), codes.FailedPrecondition,
		v.ID, "holds no filesystem", "left untouched", "next step")
	must.Succeed(t, d.Detach(ctx, v))
	must.Succeed(t, d.Delete(ctx, v))
}

// The mapping of a raw volume that is staged read-only refuses writes. The mapping of a
// filesystem stays writable, so that the kernel can replay the journal after a crash,
// but the mount is read-only.
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
		t.Errorf("got %q, %v; want %q", back, err, passphrase)
	}
	must.Succeed(t, f.Close())
	if f, err := os.OpenFile(raw.Target, os.O_WRONLY, 0); err == nil {
		if _, err = f.WriteAt(back, 0); err == nil {
			err = f.Sync()
		}
		if errors.Join(err, f.Close()) == nil {
			t.Error("a write to a mapping that is staged read-only succeeded")
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
		t.Errorf("create a file on a read-only volume: got %v, want EROFS", err)
	}
	must.Succeed(t, d.Release(ctx, reader))
	must.Succeed(t, d.Delete(ctx, v))
}

// wantMappingReadOnly fails the test unless the guest has one mapping, which is
// read-only or not, as wanted.
func wantMappingReadOnly(t *testing.T, want bool) {
	t.Helper()
	wantMappings(t, 1)
	found := must.Value(filepath.Glob("/sys/block/dm-*/ro"))(t)
	text := must.Value(os.ReadFile(found[0]))(t)
	if got := strings.TrimSpace(string(text)) == "1"; got != want {
		t.Errorf("got a read-only mapping: %t, want %t", got, want)
	}
}

// waitUntil ends the test unless the condition becomes true within 20 s.
func waitUntil(t *testing.T, what string, condition func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for !condition() {
		if operation.Sleep(ctx, 10*time.Millisecond) != nil {
			t.Fatalf("%s: not within 20 s", what)
		}
	}
}

// Stage refuses a wrong passphrase, a missing one, an encrypted volume whose context
// lacks the parameter, and a plain volume whose context has it. A refused stage changes
// nothing and leaves nothing behind.
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
	noParameter := withoutSecrets(v)
	noParameter.VolumeContext = nil
	must.FailWith(t, d.Stage(ctx, noParameter), codes.FailedPrecondition, v.ID, "LUKS2", "encrypted")

	plain := createAndUse(t, d, volumeName(t)+"-plain", gib, csiclient.MountCapability("ext4"))
	must.Succeed(t, d.Release(ctx, plain))
	c := createEncrypted(t, d, volumeName(t)+"-clone", gib, csiclient.MountCapability("ext4"), cloneSource(plain))
	must.Succeed(t, d.Attach(ctx, c))
	must.FailWith(t, d.Stage(ctx, c), codes.FailedPrecondition, c.ID, "without encryption", "next step")

	must.Succeed(t, d.Use(ctx, v))
	must.Value(w.Verify(v.Target))(t)
	isStateOfClone := func(path string) bool { return strings.Contains(path, "/state/") && strings.Contains(path, c.ID) }
	if left := must.Value(d.Leftovers())(t); slices.ContainsFunc(left, isStateOfClone) {
		t.Errorf("the refused stage has left: %v", left)
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

// A volume is deleted by force while it is staged. Unstage closes its mapping and frees
// its device, and succeeds again when it is repeated.
func TestUnstageClosesTheMappingOfADeletedVolume(t *testing.T) {
	d, ctx := deploy(t), t.Context()
	v := createEncrypted(t, d, volumeName(t), gib, csiclient.MountCapability("ext4"), nil)
	must.Succeed(t, d.Use(ctx, v))
	must.Succeed(t, os.RemoveAll(filepath.Dir(backingFile(d, v))))
	must.Succeed(t, d.Unpublish(ctx, v))
	must.Succeed(t, d.Unstage(ctx, v))
	must.Succeed(t, d.Unstage(ctx, v))
	wantMappings(t, 0)
}
