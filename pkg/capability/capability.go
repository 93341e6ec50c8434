// Package capability translates between the CSI wire format's volume
// capabilities (spec v1.13, VolumeCapability) and the domain's accesses. Both
// services use it, so that they cannot disagree on what a request means.
package capability

import (
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/volume"
)

// modes pairs the wire format's access modes with the domain's.
func modes() map[csi.VolumeCapability_AccessMode_Mode]volume.AccessMode {
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

// Access reads one capability. Errors are of kind Invalid: it is missing, has
// no access mode or access type, or asks for a mount group, which this driver
// leaves to the orchestrator.
func Access(c *csi.VolumeCapability) (volume.Access, error) {
	if c == nil {
		return volume.Access{}, volume.Errorf(volume.KindInvalid, "the volume capability is missing from the request")
	}
	mode, known := modes()[c.GetAccessMode().GetMode()]
	if !known {
		return volume.Access{}, volume.Errorf(volume.KindInvalid,
			"the volume capability has no access mode that this driver knows (%s)", c.GetAccessMode().GetMode())
	}
	a := volume.Access{Mode: mode}
	switch {
	case c.GetBlock() != nil:
		a.Block = true
	case c.GetMount() != nil:
		a.FSType = c.GetMount().GetFsType()
		a.MountFlags = slices.Clone(c.GetMount().GetMountFlags())
		if g := c.GetMount().GetVolumeMountGroup(); g != "" {
			return volume.Access{}, volume.Errorf(volume.KindInvalid,
				"volume_mount_group %q: this driver does not set ownership (VOLUME_MOUNT_GROUP is not advertised)", g)
		}
	default:
		return volume.Access{}, volume.Errorf(volume.KindInvalid,
			"the volume capability names neither a mount nor a block access type")
	}
	return a, nil
}
