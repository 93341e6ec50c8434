// Package health renders the conditions of a volume in the CSI wire format (spec v1.13,
// VolumeHealth, alpha). The controller service and the node service use it, so that both report in
// the same way.
package health

import (
	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/volume"
)

// ToCSI returns the conditions of a volume in the wire format. No conditions mean that no fault of
// the volume is known.
func ToCSI(id string, conditions []volume.Condition) *csi.VolumeHealth {
	h := &csi.VolumeHealth{VolumeId: id}
	for _, c := range conditions {
		h.HealthStatuses = append(h.HealthStatuses, &csi.VolumeHealth_VolumeHealthEntry{
			Status: errorType(c.Impairment), Reason: c.Reason, Message: c.Message,
		})
	}
	return h
}

func errorType(i volume.Impairment) csi.VolumeHealthErrorType {
	switch i {
	case volume.ImpairmentDegraded:
		return csi.VolumeHealthErrorType_DEGRADED
	case volume.ImpairmentInaccessible:
		return csi.VolumeHealthErrorType_INACCESSIBLE
	case volume.ImpairmentDataLoss:
		return csi.VolumeHealthErrorType_DATA_LOSS
	}
	return csi.VolumeHealthErrorType_UNKNOWN_VOLUME_HEALTH_TYPE
}
