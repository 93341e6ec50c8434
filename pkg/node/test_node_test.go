package node

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/luks"
	"github.com/growvol/growvol/pkg/volume"
)

// testNode is a Server on a machine, and the requests for one volume.
type testNode struct {
	*machine
	*Server
	id, staging, target string
	capability          *csi.VolumeCapability
	context, secrets    map[string]string
}

func newTestNode(t *testing.T, capability *csi.VolumeCapability) *testNode {
	t.Helper()
	m := newMachine()
	s, err := New(Options{
		ID: "node-1", Connector: fakeConnector{m}, Devices: fakeDevices{m}, Mappings: fakeMappings{m},
		Filesystems: fakeFilesystems{m},
		StateDir:    filepath.Join(t.TempDir(), "state"), RollbackMargin: 10 * time.Millisecond,
		Log: slog.New(slog.DiscardHandler), Metrics: NewMetrics(prometheus.NewRegistry()),
	})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	return &testNode{
		machine: m, Server: s, id: "vol-1", staging: filepath.Join(dir, "staging"),
		target: filepath.Join(dir, "pod", "mount"), capability: capability,
	}
}

func mountCapability(fstype string, flags ...string) *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: fstype, MountFlags: flags}},
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
	}
}

func blockCapability() *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessType: &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}},
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
	}
}

func (b *testNode) stage(ctx context.Context) error {
	_, err := b.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{
		VolumeId: b.id, StagingTargetPath: b.staging, VolumeCapability: b.capability, VolumeContext: b.context,
		Secrets: b.secrets,
	})
	return err
}

func (b *testNode) publish(ctx context.Context, readOnly bool) error {
	_, err := b.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
		VolumeId: b.id, StagingTargetPath: b.staging, TargetPath: b.target, VolumeCapability: b.capability,
		Readonly:      readOnly,
		VolumeContext: b.context,
	})
	return err
}

func (b *testNode) unpublish(ctx context.Context) error {
	_, err := b.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: b.id, TargetPath: b.target})
	return err
}

func (b *testNode) unstage(ctx context.Context) error {
	_, err := b.NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{VolumeId: b.id, StagingTargetPath: b.staging})
	return err
}

func (b *testNode) expand(ctx context.Context, size volume.Size) (volume.Size, error) {
	resp, err := b.NodeExpandVolume(ctx, &csi.NodeExpandVolumeRequest{
		VolumeId: b.id, VolumePath: b.target, StagingTargetPath: b.staging, VolumeCapability: b.capability,
		CapacityRange: &csi.CapacityRange{RequiredBytes: size.Bytes()},
	})
	return volume.Size(resp.GetCapacityBytes()), err
}

func (b *testNode) expandWithin(t *testing.T, size volume.Size, limit time.Duration) (volume.Size, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	return b.expand(ctx, size)
}

// stageAndPublish stages and publishes a volume of the size, which must work.
func (b *testNode) stageAndPublish(t *testing.T, size volume.Size) *fakeDisk {
	t.Helper()
	d := b.add(b.id, size)
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.publish(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	return d
}

// encrypt gives the volume of the testNode a LUKS2 header and an open mapping.
func (b *testNode) encrypt(d *fakeDisk) {
	d.luks.header = luks.Header{
		State: luks.HeaderSound, UUID: "00000000-0000-4000-8000-000000000000", Offset: headerSize, Sector: 512,
	}
	d.luks.passphrase, d.luks.plugCount, d.mappingSize = secret, d.plugCount, d.backendSize-headerSize
	b.mappedDisks[b.id] = d
}

const secret = "correct horse battery staple"

// newEncryptedTestNode returns a testNode whose volume is encrypted.
func newEncryptedTestNode(t *testing.T, capability *csi.VolumeCapability) *testNode {
	t.Helper()
	b := newTestNode(t, capability)
	b.context, b.secrets = map[string]string{volume.EncryptedKey: "true"}, map[string]string{PassphraseKey: secret}
	return b
}

func luksHeader(state luks.HeaderState) luks.Header {
	return luks.Header{State: state, UUID: "10000000-0000-4000-8000-000000000000", Offset: headerSize, Sector: 512}
}

func noiseSignature() filesystem.Signature {
	return filesystem.Signature{State: filesystem.StateForeign, Content: "unknown data", IsRandom: true}
}

// requireDeviceNodes skips the test where it cannot make device nodes.
func requireDeviceNodes(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("making a device node needs root")
	}
}

// contextWithTimeout returns a context that ends soon.
func contextWithTimeout(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

// growDevice makes the device larger and, if announce is set, announces that as the kernel does.
func (b *testNode) growDevice(d *fakeDisk, to volume.Size, announce bool) {
	b.mu.Lock()
	d.backendSize, d.deviceSize = to, to
	b.mu.Unlock()
	if announce {
		b.events <- blockdev.SizeEvent{Major: diskMajor, Minor: d.number}
	}
	synctest.Wait()
}

func (b *testNode) filesystemSize(d *fakeDisk) volume.Size {
	b.mu.Lock()
	defer b.mu.Unlock()
	return d.content.Size
}

// ext4Signature is that of a complete ext4 of 1 GiB.
func ext4Signature() filesystem.Signature {
	return filesystem.Signature{
		State: filesystem.StateFormatted, IsComplete: true, Type: filesystem.TypeExt4, Size: volume.GiB,
	}
}

// writeFile writes a file and makes its directory.
func writeFile(t *testing.T, path, content string) {
	t.Helper()
	err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(content), 0o600))
	if err != nil {
		t.Fatal(err)
	}
}
