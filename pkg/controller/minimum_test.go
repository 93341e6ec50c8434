package controller

import (
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/capability"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
	"github.com/growvol/growvol/tests/fakebackend"
)

// filesystemRequest requests a volume with a filesystem of the type.
func filesystemRequest(name, fstype string, required, limit volume.Size) *csi.CreateVolumeRequest {
	c := mountAs(singleWriter)
	c.GetMount().FsType = fstype
	return &csi.CreateVolumeRequest{
		Name: name, CapacityRange: bytesRange(required, limit), VolumeCapabilities: []*csi.VolumeCapability{c},
	}
}

// Sizes below the minimum of the filesystem are refused before the volume is created. The
// message names the filesystem, both sizes and the next step.
func TestCreateRefusesSizeBelowMinimum(t *testing.T) {
	t.Parallel()
	const tooSmall = 100 * volume.MiB
	xfs := capability.MinFilesystemSize("xfs")
	if xfs != 300*volume.MiB {
		t.Fatalf("minimum of xfs: got %s, want 300 MiB", xfs)
	}
	encrypted := func(r *csi.CreateVolumeRequest) { r.Parameters = map[string]string{"encrypted": "true"} }
	for name, test := range map[string]struct {
		fstype          string
		required, limit volume.Size
		change          func(*csi.CreateVolumeRequest)
		want            volume.Size // zero: refused
		words           []string
	}{
		"xfs, too small": {
			fstype: "xfs", required: tooSmall,
			words: []string{"xfs", "100 MiB", "needs at least 300 MiB", "to at least 300 MiB"},
		},
		"xfs, just too small":       {fstype: " XFS", required: xfs - volume.MiB, words: []string{"299 MiB"}},
		"xfs, rounded up to enough": {fstype: "xfs", required: xfs - 1, want: xfs},
		"xfs, exactly":              {fstype: "xfs", required: xfs, want: xfs},
		"xfs, limit allows more":    {fstype: "xfs", required: tooSmall, limit: 400 * volume.MiB, want: xfs},
		"xfs, limit allows just it": {fstype: "xfs", required: tooSmall, limit: xfs, want: xfs},
		"xfs, limit too small": {
			fstype: "xfs", required: tooSmall, limit: xfs - 1, words: []string{"xfs", "100 MiB", "300 MiB"},
		},
		"xfs, only a limit": {
			fstype: "xfs", limit: 200 * volume.MiB, words: []string{"limit of 200 MiB", "300 MiB"},
		},
		"xfs, no size": {fstype: "xfs", want: volume.GiB},
		"xfs, options do not matter": {
			fstype: "xfs", required: tooSmall, change: withMkfsOptions("-i size=512"), words: []string{"300 MiB"},
		},
		"xfs, options matter": {
			fstype: "xfs", required: tooSmall, change: withMkfsOptions("-K --unsupported"), want: tooSmall,
		},
		"xfs, options with commas": {
			fstype: "xfs", required: tooSmall, change: withMkfsOptions("-K,--unsupported"), want: tooSmall,
		},
		"btrfs": {
			fstype: "btrfs", required: tooSmall, words: []string{"btrfs", capability.MinFilesystemSize("btrfs").String()},
		},
		"btrfs, options matter": {
			fstype: "btrfs", required: tooSmall, change: withMkfsOptions("--mixed"), want: tooSmall,
		},
		"ext3 without a journal": {fstype: "ext3", required: 4 * volume.MiB, words: []string{"ext3", "4 MiB", "8 MiB"}},
		"ext4":                   {fstype: "ext4", required: volume.MiB, want: volume.MiB},
		"no filesystem named":    {required: volume.MiB, want: volume.MiB},
		"block": {required: volume.MiB, change: func(r *csi.CreateVolumeRequest) {
			r.VolumeCapabilities = []*csi.VolumeCapability{blockAs(singleWriter)}
		}, want: volume.MiB},
		"encrypted xfs": {
			fstype: "xfs", required: xfs, change: encrypted, words: []string{"xfs", "LUKS2", "16 MiB", "316 MiB"},
		},
		"encrypted xfs, large enough": {
			fstype: "xfs", required: xfs + 16*volume.MiB, change: encrypted, want: xfs + 16*volume.MiB,
		},
		"encrypted block": {required: 16 * volume.MiB, change: func(r *csi.CreateVolumeRequest) {
			encrypted(r)
			r.VolumeCapabilities = []*csi.VolumeCapability{blockAs(singleWriter)}
		}, words: []string{"LUKS2", "17 MiB"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fake := fakebackend.New()
			req := filesystemRequest("v", test.fstype, test.required, test.limit)
			if test.change != nil {
				test.change(req)
			}
			resp, err := New(fake, Options{}).CreateVolume(t.Context(), req)
			if test.want == 0 {
				volumetest.WantKind(t, err, volume.KindOutOfRange, append(test.words, "next step")...)
				if fake.Calls("Create") != 0 {
					t.Error("the volume was created although the size was refused")
				}
				return
			}
			if err != nil || resp.GetVolume().GetCapacityBytes() != test.want.Bytes() {
				t.Errorf("got %v, %v, want %s", resp, err, test.want)
			}
		})
	}
}

func withMkfsOptions(text string) func(*csi.CreateVolumeRequest) {
	return func(r *csi.CreateVolumeRequest) { r.Parameters = map[string]string{volume.MkfsOptionsKey: text} }
}

// The minimum applies to the size of a copy, not to that of its source. It does not apply to
// a volume that exists: after a refusal no call would delete the volume.
func TestMinimumAppliesToCopiesButNotToExistingVolumes(t *testing.T) {
	t.Parallel()
	fake := fakebackend.New()
	s := New(fake, Options{})
	source := createVolume(t, s, "source", 200*volume.MiB)
	snapshot, err := fake.CreateSnapshot(t.Context(), volume.SnapshotRequest{Name: "s", VolumeID: source})
	if err != nil {
		t.Fatal(err)
	}
	sources := map[string]*csi.VolumeContentSource{"clone": fromVolume(source), "restored": fromSnapshot(snapshot.ID)}
	for kind, from := range sources {
		small := filesystemRequest(kind, "xfs", 200*volume.MiB, 0)
		small.VolumeContentSource = from
		_, err := s.CreateVolume(t.Context(), small)
		volumetest.WantKind(t, err, volume.KindOutOfRange, "xfs", "200 MiB", "300 MiB")
		large := filesystemRequest(kind, "xfs", 300*volume.MiB, 0)
		large.VolumeContentSource = from
		if _, err := s.CreateVolume(t.Context(), large); err != nil {
			t.Error(err)
		}
		unsized := filesystemRequest(kind+" unsized", "xfs", 0, 0)
		unsized.VolumeContentSource = from
		resp, err := s.CreateVolume(t.Context(), unsized)
		if err != nil || resp.GetVolume().GetCapacityBytes() != (300*volume.MiB).Bytes() {
			t.Errorf("got %v, %v, want 300 MiB", resp, err)
		}
	}
	resp, err := s.CreateVolume(t.Context(), filesystemRequest("source", "xfs", 200*volume.MiB, 0))
	if err != nil || resp.GetVolume().GetVolumeId() != source {
		t.Errorf("existing volume: got %v, %v, want %s", resp, err, source)
	}
}

func TestGetCapacityReportsMinimum(t *testing.T) {
	t.Parallel()
	s := New(fakebackend.New(), Options{})
	req := &csi.GetCapacityRequest{VolumeCapabilities: filesystemRequest("", "xfs", 0, 0).GetVolumeCapabilities()}
	for encrypted, want := range map[string]volume.Size{"false": 300 * volume.MiB, "true": 316 * volume.MiB} {
		req.Parameters = map[string]string{"encrypted": encrypted}
		resp, err := s.GetCapacity(t.Context(), req)
		if err != nil || resp.GetMinimumVolumeSize().GetValue() != want.Bytes() {
			t.Errorf("encrypted %s: got %v, %v, want %s", encrypted, resp, err, want)
		}
	}
	req.Parameters = map[string]string{"encrypted": "maybe"}
	_, err := s.GetCapacity(t.Context(), req)
	volumetest.WantKind(t, err, volume.KindInvalid, "maybe")
}
