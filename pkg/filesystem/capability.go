package filesystem

import "github.com/growvol/growvol/pkg/volume"

// CheckGrowExt returns an error of kind Precondition if this process lacks
// CAP_SYS_RESOURCE, without which the kernel grows no mounted ext2, ext3 or ext4.
func (s *System) CheckGrowExt() error {
	caps, err := s.kernel.capabilities()
	if err != nil {
		return volume.Errorf(volume.KindInternal, "read the capabilities of this process: %w", err)
	}
	if caps&(1<<capSysResource) == 0 {
		return missingCapabilityError(nil)
	}
	return nil
}

func missingCapabilityError(cause error) error {
	e := volume.Errorf(volume.KindPrecondition, "growing ext2, ext3 and ext4 online needs CAP_SYS_RESOURCE in the initial user namespace, which this process lacks")
	e.Cause = cause
	return e.WithRemedy("run the node plugin privileged, or add SYS_RESOURCE to its capabilities")
}
