package controller

import (
	"slices"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/capability"
	"github.com/growvol/growvol/pkg/volume"
)

// parseAccesses converts the capabilities of one volume, which must satisfy all of them.
// Error kind Invalid: there is none, or one cannot be converted.
func parseAccesses(capabilities []*csi.VolumeCapability) ([]volume.Access, error) {
	if len(capabilities) == 0 {
		return nil, volume.Errorf(volume.KindInvalid, "volume_capabilities are missing from the request")
	}
	accesses := make([]volume.Access, 0, len(capabilities))
	for _, c := range capabilities {
		access, err := capability.ParseAccess(c)
		if err != nil {
			return nil, err
		}
		accesses = append(accesses, access)
	}
	return accesses, nil
}

// checkAccessModes returns an error of kind Invalid unless each access has one of these
// modes, and all are to a block device or all are to a filesystem: writes to the device
// would destroy the filesystem.
func checkAccessModes(modes []volume.AccessMode, accesses ...volume.Access) error {
	for _, a := range accesses {
		if !slices.Contains(modes, a.Mode) {
			return volume.Errorf(volume.KindInvalid, "access mode %s is not supported, only %s", a.Mode, modeNames(modes))
		}
		if a.Block != accesses[0].Block {
			return volume.Errorf(volume.KindInvalid, "the volume cannot be used both as a block device and as a filesystem")
		}
	}
	return nil
}

// checkNotDestructive returns an error of kind Invalid for an access that destroys a
// filesystem: mounts on several nodes of which one writes. CreateVolume, GetCapacity and
// ValidateVolumeCapabilities call it. A volume that another driver created with such a mode
// may still be used on one node, and be expanded.
func checkNotDestructive(accesses []volume.Access) error {
	for _, a := range accesses {
		if a.Mode.IsMultiNode() && !a.IsShared() {
			return volume.Errorf(volume.KindInvalid, "the access mode %s needs a block volume: "+
				"a filesystem that several nodes mount while one writes to it is destroyed", a.Mode).
				WithRemedy("set volumeMode: Block, or an access mode for one node (ReadWriteOnce), in the claim")
		}
	}
	return nil
}

// checkEncryptedAccess returns an error of kind Invalid for an access in which several
// nodes write to an encrypted volume: each node could find the new volume blank and write
// a LUKS2 header, and the second header makes unreadable what the first node has written.
func checkEncryptedAccess(encrypted bool, accesses []volume.Access) error {
	for _, a := range accesses {
		if encrypted && a.Mode.IsMultiNode() && !a.Mode.IsReadOnly() {
			return volume.Errorf(volume.KindInvalid, "the access mode %s is not possible with encryption (%s: %q): "+
				"each node would write its own LUKS2 header", a.Mode, volume.EncryptedKey, encryptedTrue).
				WithRemedy("set an access mode for one node (ReadWriteOnce) in the claim, or use a StorageClass without " +
					volume.EncryptedKey)
		}
	}
	return nil
}

// accessModes returns the modes that this volume allows.
func (s *Server) accessModes(v volume.Volume) []volume.AccessMode {
	if len(v.AccessModes) > 0 {
		return v.AccessModes
	}
	return s.backend.AccessModes()
}

func modeNames(modes []volume.AccessMode) string {
	names := make([]string, len(modes))
	for i, m := range modes {
		names[i] = m.String()
	}
	return strings.Join(names, ", ")
}
