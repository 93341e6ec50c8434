// Package capability converts the volume capabilities of CSI requests (spec v1.13,
// VolumeCapability) into the domain's accesses, and reads the mkfs options of a
// StorageClass. The controller and the node service both use it, so that they understand a
// request in the same way.
package capability

import (
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/volume"
)

// accessModes returns the domain's access mode of each CSI access mode.
func accessModes() map[csi.VolumeCapability_AccessMode_Mode]volume.AccessMode {
	return map[csi.VolumeCapability_AccessMode_Mode]volume.AccessMode{
		csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER:        volume.AccessSingleNodeWriter,
		csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY:   volume.AccessSingleNodeReaderOnly,
		csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER: volume.AccessSingleNodeSingleWriter,
		csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER:  volume.AccessSingleNodeMultiWriter,
		csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY:    volume.AccessMultiNodeReaderOnly,
		csi.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER:  volume.AccessMultiNodeSingleWriter,
		csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER:   volume.AccessMultiNodeMultiWriter,
	}
}

// ParseAccess converts one capability. Error kind Invalid: the capability is missing, has no
// known access mode or no access type, or requests a mount group, which this driver leaves
// to the orchestrator.
func ParseAccess(c *csi.VolumeCapability) (volume.Access, error) {
	if c == nil {
		return volume.Access{}, volume.Errorf(volume.KindInvalid, "the volume capability is missing in the request")
	}
	mode, known := accessModes()[c.GetAccessMode().GetMode()]
	switch group := c.GetMount().GetVolumeMountGroup(); {
	case !known:
		return volume.Access{}, volume.Errorf(volume.KindInvalid,
			"the access mode %s of the volume capability is unknown", c.GetAccessMode().GetMode())
	case c.GetBlock() == nil && c.GetMount() == nil:
		return volume.Access{}, volume.Errorf(volume.KindInvalid,
			"the volume capability has neither the access type mount nor block")
	case group != "":
		return volume.Access{}, volume.Errorf(volume.KindInvalid,
			"volume_mount_group is %q, but this driver does not set ownership (VOLUME_MOUNT_GROUP is not advertised)", group)
	}
	return volume.Access{
		Mode: mode, Block: c.GetBlock() != nil,
		FSType: c.GetMount().GetFsType(), MountFlags: slices.Clone(c.GetMount().GetMountFlags()),
	}, nil
}
