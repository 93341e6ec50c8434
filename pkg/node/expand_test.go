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
	"github.com/prometheus/client_golang/prometheus"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/volume"
)

func TestExpandGrowsDeviceThenFilesystem(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	d := b.stageAndPublish(t, volume.GiB)
	for _, size := range []volume.Size{2 * volume.GiB, 2 * volume.GiB, 6 * volume.GiB} {
		d.backendSize = size
		got, err := b.expand(t.Context(), size)
		if err != nil || got != size {
			t.Fatalf("expanded to %s: %s, %v", size, got, err)
		}
		if d.deviceSize != size || d.content.Size != size {
			t.Errorf("device %s, filesystem %s after the expansion to %s", d.deviceSize, d.content.Size, size)
		}
	}
}

func TestExpandOfARawBlockVolume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("making a device node needs root")
		}
		b := newTestNode(t, blockCapability())
		d := b.stageAndPublish(t, volume.GiB)
		d.backendSize = 3 * volume.GiB
		if got, err := b.expand(t.Context(), 3*volume.GiB); err != nil || got != 3*volume.GiB || d.deviceSize != got {
			t.Errorf("%s, %v; the device shows %s", got, err, d.deviceSize)
		}
		if b.countCalls("grow") != 0 {
			t.Error("a filesystem was looked for on a raw volume")
		}
		d.backendSize, d.ignoresRescan = 4*volume.GiB, true
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err := b.expand(ctx, 4*volume.GiB)
		wantKind(t, err, volume.KindDeadline, "3 GiB", "4 GiB")
	})
}

// The device knows nothing of the growth yet, and a rescan brings nothing: the
// filesystem tools would report success. It must be an error with both sizes.
func TestExpandIsNeverASuccessOnAStaleDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTestNode(t, mountCapability("ext4"))
		d := b.stageAndPublish(t, volume.GiB)
		d.backendSize, d.ignoresRescan = 2*volume.GiB, true
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err := b.expand(ctx, 2*volume.GiB)
		wantKind(t, err, volume.KindDeadline, b.id, "1 GiB", "2 GiB")
		if ctx.Err() != nil {
			t.Error("the answer came when the caller had given up")
		}
		if b.countCalls("grow") != 1 { // the one at stage
			t.Error("the filesystem was touched")
		}
	})
}

// Whoever says that the device has grown, its size is looked at.
func TestExpandBelievesNobody(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	d := b.stageAndPublish(t, volume.GiB)
	d.backendSize, d.ignoresRescan, d.reportsFalseSize = 2*volume.GiB, true, true
	_, err := b.expand(t.Context(), 2*volume.GiB)
	wantKind(t, err, volume.KindInternal, "1 GiB", "2 GiB")
}

// A backend that knows of a larger size than the request does not let the
// node stop at the request.
func TestExpandWithoutACapacityGoesToTheVolumesSize(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	d := b.stageAndPublish(t, volume.GiB)
	d.backendSize = 2 * volume.GiB
	if got, err := b.expand(t.Context(), 0); err != nil || got != 2*volume.GiB {
		t.Errorf("%s, %v", got, err)
	}
	// But the filesystem is asked for no more than the request.
	at := make(chan filesystem.GrowRequest, 1)
	b.opts.Filesystems = recordingGrow{fakeFilesystems{b.machine}, at}
	d.backendSize = 9 * volume.GiB
	if _, err := b.expand(t.Context(), 3*volume.GiB); err != nil {
		t.Fatal(err)
	}
	if got := <-at; got.Required != 3*volume.GiB {
		t.Errorf("the filesystem is asked for %s", got.Required)
	}
}

func TestExpandOfAMapping(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	d := b.stageAndPublish(t, volume.GiB)
	d.mappingSize, d.luks.keyInKeyring = volume.GiB-headerSize, true
	for i := range b.mounts {
		b.mounts[i].Device = blockdev.DeviceNumber{Major: cryptMajor, Minor: d.number}
	}
	d.backendSize = 2 * volume.GiB
	_, err := b.expand(t.Context(), 2*volume.GiB)
	wantKind(t, err, volume.KindPrecondition, "passphrase")
	resp, err := b.NodeExpandVolume(t.Context(), &csi.NodeExpandVolumeRequest{
		VolumeId: b.id, VolumePath: b.target, StagingTargetPath: b.staging, CapacityRange: &csi.CapacityRange{RequiredBytes: 2 << 30},
		Secrets: map[string]string{PassphraseKey: "secret"},
	})
	if err != nil || resp.GetCapacityBytes() != 2<<30 {
		t.Fatalf("%v, %v", resp, err)
	}
	if want := 2*volume.GiB - headerSize; d.mappingSize != want || d.content.Size != want {
		t.Errorf("mapping %s, filesystem %s; want %s", d.mappingSize, d.content.Size, want)
	}
}

func TestExpandOfAMappingThatIsNotEncryption(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	d := b.stageAndPublish(t, volume.GiB)
	d.hasOtherMapping = true
	for i := range b.mounts {
		b.mounts[i].Device = blockdev.DeviceNumber{Major: cryptMajor, Minor: d.number}
	}
	d.backendSize = 2 * volume.GiB
	_, err := b.expand(t.Context(), 2*volume.GiB)
	wantKind(t, err, volume.KindPrecondition, d.path+"-crypt")
	if b.countCalls("resize-crypt") != 0 {
		t.Error("resized as if it were dm-crypt")
	}
}

func TestExpandRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(t *testing.T, b *testNode)
		kind    volume.Kind
		words   []string
	}{
		"the published mount is lost: a plain directory": {func(_ *testing.T, b *testNode) { b.dropMount(b.target) }, volume.KindInternal, []string{"not a mount point"}},
		"the staging mount is lost":                      {func(_ *testing.T, b *testNode) { b.dropMount(b.staging) }, volume.KindInternal, []string{"not a mount point"}},
		"the path is gone": {func(t *testing.T, b *testNode) {
			t.Helper()
			b.dropMount(b.target)
			if err := os.Remove(b.target); err != nil {
				t.Fatal(err)
			}
		}, volume.KindInternal, []string{b0target}},
		"a relative path":              {func(_ *testing.T, b *testNode) { b.target = "some/path" }, volume.KindInvalid, nil},
		"the volume does not exist":    {func(_ *testing.T, b *testNode) { delete(b.disks, b.id) }, volume.KindNotFound, nil},
		"the volume is not connected":  {func(_ *testing.T, b *testNode) { b.disks[b.id].connected = false }, volume.KindInternal, []string{"not connected"}},
		"the device is another volume": {func(_ *testing.T, b *testNode) { b.disks[b.id].serial = "vol-2" }, volume.KindPrecondition, []string{"another volume"}},
		"the capability contradicts":   {func(_ *testing.T, b *testNode) { b.capability = blockCapability() }, volume.KindInternal, []string{"block device"}},
		"the filesystem refuses": {func(_ *testing.T, b *testNode) {
			b.fail["grow"] = volume.Errorf(volume.KindPrecondition, "needs e2fsck")
		}, volume.KindPrecondition, []string{"e2fsck"}},
		"the staging path is another mount": {func(_ *testing.T, b *testNode) { b.swapStaging() }, volume.KindInternal, []string{b0staging}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newTestNode(t, mountCapability("ext4"))
			d := b.stageAndPublish(t, volume.GiB)
			d.backendSize = 2 * volume.GiB
			size := d.content.Size
			c.prepare(t, b)
			_, err := b.expand(t.Context(), 2*volume.GiB)
			wantKind(t, err, c.kind, c.words...)
			if d.content.Size != size {
				t.Error("the filesystem was grown all the same")
			}
		})
	}
}

// What a bench calls its paths, without the temporary directory.
const (
	b0target  = "pod/mount"
	b0staging = "staging"
)

func (m *machine) dropMount(path string) {
	f := fakeFilesystems{m}
	for top, mounted, _ := f.FindMount(path); mounted; top, mounted, _ = f.FindMount(path) {
		_ = f.Unmount(context.Background(), top)
	}
}

// swapStaging puts another volume at the staging path.
func (b *testNode) swapStaging() {
	other := b.add("vol-2", volume.GiB)
	other.connected = true
	b.dropMount(b.staging)
	fakeFilesystems{b.machine}.mount(filesystem.Mount{MountPoint: b.staging, FSType: "ext4", Source: other.path, Device: blockdev.DeviceNumber{Major: diskMajor, Minor: other.number}, Options: []string{"rw"}})
}

func TestExpandUsesTheWritableMount(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	d := b.add(b.id, volume.GiB)
	if err := errors.Join(b.stage(t.Context()), b.publish(t.Context(), true)); err != nil {
		t.Fatal(err)
	}
	d.backendSize = 2 * volume.GiB
	at := make(chan filesystem.GrowRequest, 1)
	b.opts.Filesystems = recordingGrow{fakeFilesystems{b.machine}, at}
	// Without the staging path, which is optional in the request.
	_, err := b.NodeExpandVolume(t.Context(), &csi.NodeExpandVolumeRequest{VolumeId: b.id, VolumePath: b.target, CapacityRange: &csi.CapacityRange{RequiredBytes: 2 << 30}})
	if err != nil {
		t.Fatal(err)
	}
	got := <-at
	if got.MountPoint != b.staging {
		t.Errorf("grown at %s, which is read-only", got.MountPoint)
	}
	if got.Required != 2*volume.GiB {
		t.Errorf("the filesystem is asked for %s", got.Required)
	}
}

type recordingGrow struct {
	fakeFilesystems
	at chan<- filesystem.GrowRequest
}

func (g recordingGrow) Grow(ctx context.Context, req filesystem.GrowRequest) (filesystem.Growth, error) {
	g.at <- req
	return g.fakeFilesystems.Grow(ctx, req)
}

// A growth cannot be interrupted. It outlives its call, keeps the volume's
// lock, and the retry finds it done; meanwhile pods may still start.
func TestExpandThatOutlivesItsCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTestNode(t, mountCapability("ext4"))
		d := b.stageAndPublish(t, volume.GiB)
		d.backendSize = 2 * volume.GiB
		b.holdGrow, b.growStarted = make(chan struct{}), make(chan struct{})
		short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err := b.expand(short, 2*volume.GiB)
		wantKind(t, err, volume.KindDeadline, "still under way")
		<-b.growStarted
		b.mu.Lock()
		b.growStarted = nil
		b.mu.Unlock()

		unstaging, cancel2 := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel2()
		wantKind(t, b.unstage(unstaging), volume.KindDeadline, "another operation")
		if err := errors.Join(b.unpublish(t.Context()), b.publish(t.Context(), false)); err != nil {
			t.Errorf("a growth keeps pods from their volume: %v", err)
		}

		retry := make(chan error, 1)
		go func() { _, err := b.expand(t.Context(), 2*volume.GiB); retry <- err }()
		close(b.holdGrow)
		if err := <-retry; err != nil {
			t.Fatalf("the retry: %v", err)
		}
		if d.content.Size != 2*volume.GiB {
			t.Errorf("the filesystem has %s", d.content.Size)
		}
	})
}

// addMetrics gives the Server metrics. read returns the value of each counter, and the number of
// samples of each histogram, by "name,label value,…".
func (b *testNode) addMetrics(t *testing.T) (read func() map[string]float64) {
	t.Helper()
	reg := prometheus.NewRegistry()
	metrics, err := NewMetrics(reg)
	if err != nil {
		t.Fatal(err)
	}
	b.opts.Metrics = metrics
	return func() map[string]float64 {
		families, err := reg.Gather()
		if err != nil {
			t.Error(err)
		}
		values := map[string]float64{}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				key := f.GetName()
				for _, l := range m.GetLabel() {
					key += "," + l.GetValue()
				}
				values[key] = m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
		return values
	}
}

func TestExpandMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTestNode(t, mountCapability("ext4"))
		metrics := b.addMetrics(t)
		d := b.stageAndPublish(t, volume.GiB)
		d.backendSize = 2 * volume.GiB
		if _, err := b.expand(t.Context(), 2*volume.GiB); err != nil {
			t.Fatal(err)
		}
		d.backendSize, d.ignoresRescan = 3*volume.GiB, true
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
		defer cancel()
		if _, err := b.expand(ctx, 3*volume.GiB); err == nil {
			t.Fatal("a stale device was a success")
		}
		got := metrics()
		for key, want := range map[string]float64{
			"growvol_node_expand_phase_seconds,device,ok":       1,
			"growvol_node_expand_phase_seconds,device,deadline": 1,
			"growvol_node_expand_phase_seconds,filesystem,ok":   1,
			"growvol_node_grown_bytes_total,ioctl":              float64(volume.GiB),
		} {
			if got[key] != want {
				t.Errorf("%s = %g, want %g", key, got[key], want)
			}
		}
	})
}

func TestStats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTestNode(t, mountCapability("ext4"))
		b.stageAndPublish(t, volume.GiB)
		stats := func(ctx context.Context, id, path string) (*csi.NodeGetVolumeStatsResponse, error) {
			return b.NodeGetVolumeStats(ctx, &csi.NodeGetVolumeStatsRequest{VolumeId: id, VolumePath: path})
		}
		resp, err := stats(t.Context(), b.id, b.target)
		if err != nil || len(resp.GetUsage()) != 2 || resp.GetUsage()[0].GetTotal() != 90 || resp.GetUsage()[1].GetUsed() != 3 {
			t.Errorf("%v, %v", resp, err)
		}
		for _, c := range []struct{ id, path string }{{"nobody", b.target}, {b.id, "some/path"}, {b.id, filepath.Dir(b.target)}} {
			_, err := stats(t.Context(), c.id, c.path)
			wantKind(t, err, volume.KindNotFound)
		}
		b.holdGrow = make(chan struct{}) // a frozen filesystem answers nothing
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
		defer cancel()
		_, err = stats(ctx, b.id, b.target)
		wantKind(t, err, volume.KindDeadline, "does not answer")
		close(b.holdGrow)
	})
}

func TestStatsOfABlockVolume(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("making a device node needs root")
	}
	b := newTestNode(t, blockCapability())
	b.stageAndPublish(t, volume.GiB)
	resp, err := b.NodeGetVolumeStats(t.Context(), &csi.NodeGetVolumeStatsRequest{VolumeId: b.id, VolumePath: b.target})
	if err != nil || resp.GetUsage()[0].GetTotal() != volume.GiB.Bytes() {
		t.Errorf("%v, %v", resp, err)
	}
	b.add("vol-2", volume.GiB).connected = true
	_, err = b.NodeGetVolumeStats(t.Context(), &csi.NodeGetVolumeStatsRequest{VolumeId: "vol-2", VolumePath: b.target})
	wantKind(t, err, volume.KindNotFound, b.target)
}

func TestInfoAndCapabilities(t *testing.T) {
	b := newTestNode(t, nil)
	info, err := b.NodeGetInfo(t.Context(), &csi.NodeGetInfoRequest{})
	if err != nil || info.GetNodeId() != "node-1" || info.GetMaxVolumesPerNode() != 7 || info.GetAccessibleTopology().GetSegments()["zone"] != "a" {
		t.Errorf("%v, %v", info, err)
	}
	caps, err := b.NodeGetCapabilities(t.Context(), &csi.NodeGetCapabilitiesRequest{})
	var types []string
	for _, c := range caps.GetCapabilities() {
		types = append(types, c.GetRpc().GetType().String())
	}
	want := "STAGE_UNSTAGE_VOLUME EXPAND_VOLUME GET_VOLUME_STATS GET_VOLUME_HEALTH SINGLE_NODE_MULTI_WRITER"
	if got := strings.Join(types, " "); err != nil || got != want {
		t.Errorf("capabilities %q, %v, want %q", got, err, want)
	}
	for name, o := range map[string]Options{"no id": {Connector: b.opts.Connector}, "no connector": {ID: "n"}, "no state directory": {ID: "n", Connector: b.opts.Connector, Devices: b.opts.Devices, Mappings: b.opts.Mappings, Filesystems: b.opts.Filesystems}} {
		if _, err := New(o); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

func TestRequestsAreValidated(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	calls := map[string]func() error{
		"stage": func() error {
			_, err := b.NodeStageVolume(t.Context(), &csi.NodeStageVolumeRequest{VolumeId: "v", VolumeCapability: b.capability})
			return err
		},
		"unstage": func() error {
			_, err := b.NodeUnstageVolume(t.Context(), &csi.NodeUnstageVolumeRequest{StagingTargetPath: "/x"})
			return err
		},
		"publish": func() error {
			_, err := b.NodePublishVolume(t.Context(), &csi.NodePublishVolumeRequest{VolumeId: "v", StagingTargetPath: "/x", VolumeCapability: b.capability})
			return err
		},
		"unpublish": func() error {
			_, err := b.NodeUnpublishVolume(t.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: "v", TargetPath: "relative"})
			return err
		},
		"expand": func() error {
			_, err := b.NodeExpandVolume(t.Context(), &csi.NodeExpandVolumeRequest{VolumeId: "v"})
			return err
		},
		"expand to a negative size": func() error {
			_, err := b.NodeExpandVolume(t.Context(), &csi.NodeExpandVolumeRequest{VolumeId: "v", VolumePath: "/x", CapacityRange: &csi.CapacityRange{RequiredBytes: -1}})
			return err
		},
		"stats": func() error {
			_, err := b.NodeGetVolumeStats(t.Context(), &csi.NodeGetVolumeStatsRequest{VolumeId: "v"})
			return err
		},
	}
	for name, call := range calls {
		if err := call(); !volume.IsKind(err, volume.KindInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(b.calls) != 0 {
		t.Errorf("a malformed request reached the machine: %v", b.calls)
	}
}
