package controller

import (
	"slices"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/capability"
	"github.com/growvol/growvol/pkg/volume"
)

// parseAccesses reads the capabilities of one volume, which has to satisfy
// all of them.
func parseAccesses(capabilities []*csi.VolumeCapability) ([]volume.Access, error) {
	if len(capabilities) == 0 {
		return nil, volume.Errorf(volume.KindInvalid, "volume_capabilities are missing in the request")
	}
	accesses := make([]volume.Access, 0, len(capabilities))
	for _, c := range capabilities {
		access, err := capability.Access(c)
		if err != nil {
			return nil, err
		}
		accesses = append(accesses, access)
	}
	return accesses, nil
}

// allowed returns an error of kind Invalid unless each access is possible
// with these modes. A volume cannot be both a raw block device and a
// filesystem: writing to one would destroy the other.
func allowed(modes []volume.AccessMode, accesses ...volume.Access) error {
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

// preserving refuses what would destroy a filesystem. It is for what is new or
// asked about: a volume that was made with such a mode by another driver may
// be used on one node, and grow.
func preserving(accesses []volume.Access) error {
	for _, a := range accesses {
		if a.Mode.IsMultiNode() && !a.IsShared() {
			return volume.Errorf(volume.KindInvalid, "the access mode %s needs a block volume: a filesystem that several nodes have mounted while one writes to it is destroyed", a.Mode).
				WithRemedy("use volumeMode: Block, or an access mode for one node")
		}
	}
	return nil
}

// checkEncrypted refuses an access mode in which several nodes write to an
// encrypted volume: each could find the new volume blank and make a LUKS2 header
// of its own, and the second would make unreadable what the first has written.
func checkEncrypted(encrypted bool, accesses []volume.Access) error {
	for _, a := range accesses {
		if encrypted && a.Mode.IsMultiNode() && !a.Mode.IsReadOnly() {
			return volume.Errorf(volume.KindInvalid, "the access mode %s is not possible with encryption (%s: %q): "+
				"the nodes would each make a LUKS2 header of their own", a.Mode, volume.EncryptedKey, isTrue).
				WithRemedy("use an access mode for one node, or a StorageClass without " + volume.EncryptedKey)
		}
	}
	return nil
}

// modesOf are the modes that this very volume allows.
func (s *Server) modesOf(v volume.Volume) []volume.AccessMode {
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
