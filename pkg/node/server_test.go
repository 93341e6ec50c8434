package node

import (
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/volume"
)

func TestNodeReportsInfoAndCapabilities(t *testing.T) {
	b := newTestNode(t, nil)
	info, err := b.NodeGetInfo(t.Context(), &csi.NodeGetInfoRequest{})
	if err != nil || info.GetNodeId() != "node-1" || info.GetMaxVolumesPerNode() != 7 ||
		info.GetAccessibleTopology().GetSegments()["zone"] != "a" {
		t.Errorf("info %v, error %v; want node-1, 7 volumes, zone a", info, err)
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
	for name, o := range map[string]Options{
		"no id": {Connector: b.opts.Connector}, "no connector": {ID: "n"},
		"no state directory": {
			ID: "n", Connector: b.opts.Connector, Devices: b.opts.Devices, Mappings: b.opts.Mappings,
			Filesystems: b.opts.Filesystems, Metrics: b.opts.Metrics,
		},
		"no metrics": {
			ID: "n", Connector: b.opts.Connector, Devices: b.opts.Devices, Mappings: b.opts.Mappings,
			Filesystems: b.opts.Filesystems, StateDir: "/",
		},
	} {
		if _, err := New(o); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

func TestMalformedRequestsAreInvalid(t *testing.T) {
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
			_, err := b.NodePublishVolume(
				t.Context(), &csi.NodePublishVolumeRequest{VolumeId: "v", StagingTargetPath: "/x", VolumeCapability: b.capability},
			)
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
			_, err := b.NodeExpandVolume(
				t.Context(),
				&csi.NodeExpandVolumeRequest{VolumeId: "v", VolumePath: "/x", CapacityRange: &csi.CapacityRange{RequiredBytes: -1}},
			)
			return err
		},
		"stats": func() error {
			_, err := b.NodeGetVolumeStats(t.Context(), &csi.NodeGetVolumeStatsRequest{VolumeId: "v"})
			return err
		},
	}
	for name, call := range calls {
		if err := call(); !volume.IsKind(err, volume.KindInvalid) {
			t.Errorf("%s: error %v, want kind Invalid", name, err)
		}
	}
	if len(b.calls) != 0 {
		t.Errorf("a malformed request reached the machine: %v", b.calls)
	}
}
