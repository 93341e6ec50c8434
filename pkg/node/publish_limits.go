package node

import (
	"context"
	"path/filepath"
	"strings"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
)

// This file limits the I/O of the pod that a volume is published to.

// IOLimiter limits the I/O of pods; cgroup.System implements it.
type IOLimiter interface {
	// LimitPod limits the I/O of the pod to the device. Kinds: Precondition (this node cannot limit
	// I/O), Unavailable.
	LimitPod(ctx context.Context, podUID string, d blockdev.Device, limits volume.IOLimits) error
}

// limitIO applies the limits of the publish context. The pod does not get the volume without them.
func (p *publishCall) limitIO(ctx context.Context, dev blockdev.Device) error {
	if p.limits.IsEmpty() {
		return nil
	}
	if p.opts.Limiter == nil {
		return volume.Errorf(volume.KindPrecondition,
			"the volume has limits of its I/O, but this node plugin cannot limit I/O")
	}
	uid := podUIDOf(p.target)
	if uid == "" {
		return volume.Errorf(volume.KindPrecondition,
			"the volume has limits of its I/O, but the target path %s names no pod", p.target)
	}
	return p.opts.Limiter.LimitPod(ctx, uid, dev, p.limits)
}

// podUIDOf returns the UID of the pod in a target path; empty: there is none. kubelet mounts below
// …/pods/UID/volumes/, and publishes raw devices at …/volumeDevices/publish/PV/UID
// (kubernetes, pkg/volume/csi/csi_mounter.go and csi_block.go).
func podUIDOf(target string) string {
	parts := strings.Split(filepath.Clean(target), "/")
	for i := len(parts) - 3; i >= 0; i-- {
		switch {
		case parts[i] == "pods" && parts[i+2] == "volumes":
			return parts[i+1]
		case parts[i] == "publish" && i == len(parts)-3 && i > 0 && parts[i-1] == "volumeDevices":
			return parts[i+2]
		}
	}
	return ""
}
