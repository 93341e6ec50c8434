package rbd

import (
	"github.com/growvol/growvol/pkg/rbdcsi"
	"github.com/growvol/growvol/pkg/volume"
)

// This file holds how the volumes of ceph-csi are found.

// resolveCephCSI returns the image that a handle of ceph-csi names. Kind NotFound: the cluster says
// that neither the image nor its entry in ceph-csi's journal exists.
func (s *session) resolveCephCSI(h rbdcsi.CephCSIHandle) (rbdcsi.VolumeHandle, error) {
	return rbdcsi.VolumeHandle{}, volume.Errorf(volume.KindUnsupported, "volumes of ceph-csi are not adopted yet")
}
