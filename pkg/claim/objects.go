package claim

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"github.com/growvol/growvol/pkg/volume"
)

// Reading is a value, or the error of reading it.
type Reading[T any] struct {
	Value T
	Err   error
}

// Objects are the readings that a status is made of. A Reading whose Value is nil without an error
// says that the object does not exist or does not apply.
type Objects struct {
	Claim  *corev1.PersistentVolumeClaim
	Volume Reading[*corev1.PersistentVolume]
	Node   Reading[*storagev1.CSINode] // of the node of the first running pod
	Pods   Reading[[]corev1.Pod]       // those that use the claim
	Events Reading[[]corev1.Event]     // of the claim and of those pods
	Stats  Reading[*VolumeStats]       // of kubelet
	// Driver has layers of the driver: volume, device, mapping, filesystem. A layer without a State
	// gets one by comparison with the claim.
	Driver Reading[[]Layer]
	ReadAt time.Time
}

// VolumeStats is what kubelet reports of a mounted volume.
type VolumeStats struct {
	Node       string
	Capacity   volume.Size // of the filesystem as df shows it, or of the device of a raw block volume
	Available  volume.Size
	Used       volume.Size
	Inodes     uint64
	InodesUsed uint64
	ReadAt     time.Time // when kubelet read it, up to a minute ago
}

// usage returns how full the filesystem is: as df computes it, without the blocks that only root
// may use.
func (v *VolumeStats) usage() *Usage {
	u := &Usage{ReadAt: v.ReadAt}
	if total := v.Used + v.Available; total > 0 {
		u.UsedPercent = int((v.Used*100 + total - 1) / total)
	}
	if v.Inodes > 0 {
		u.InodesPercent = int((v.InodesUsed*100 + v.Inodes - 1) / v.Inodes)
	}
	return u
}
