package node

import (
	"context"
	"time"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
)

// kubelet calls NodeExpandVolume as the last step of mounting a volume for a pod when the
// PersistentVolume has a larger size than the claim's status. The PersistentVolume may say more
// than the volume has, and then the device never grows: the pod must start all the same. The
// request is that of an ordinary growth, after whose FAILED_PRECONDITION kubelet would not call
// again, even if the cloud only announces the growth late. So the pod is proved to wait before
// that answer: after any other error kubelet repeats NodePublishVolume, which it does for a pod
// that runs only after a restart of kubelet.
const (
	// podStartWindow is how long after its NodePublishVolume a NodeExpandVolume counts as such a
	// step.
	podStartWindow = 10 * time.Second
	// podStartDeviceTimeout is how long the first of such calls waits for the device.
	podStartDeviceTimeout = 15 * time.Second
	// podStartRepeatTimeout is how long the next one does.
	podStartRepeatTimeout = 2 * time.Second
)

// mayExceedVolume reports whether the call may be a step of starting a pod and requires more than
// the volume had when it was attached.
func (e *expandCall) mayExceedVolume() bool {
	attached := e.record.PublishedSize
	known := e.conn.MinDeviceSize(max(attached, e.conn.Size))
	return e.isPodStart && attached > 0 && e.conn.MinDeviceSize(e.required) > known
}

// keepsPod reports whether a pod waits for this call, as for one before, which has failed because
// of the size of the device.
func (e *expandCall) keepsPod() bool { return e.mayExceedVolume() && e.missedSizes.get(e.id) > 0 }

// withDeviceTimeout returns the context of the wait for the device. It is short while a pod may
// wait for a size that the volume does not have.
func (e *expandCall) withDeviceTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	switch {
	case e.keepsPod():
		return context.WithTimeout(ctx, podStartRepeatTimeout)
	case e.mayExceedVolume():
		return context.WithTimeout(ctx, podStartDeviceTimeout)
	}
	return context.WithCancel(ctx)
}

// exceedsVolumeError is the error for a volume that had less than is required when the controller
// attached it, and whose device still has no more. kubelet lets the pod start with that size.
func (e *expandCall) exceedsVolumeError(disk blockdev.Device, size volume.Size) error {
	return volume.Errorf(volume.KindPrecondition,
		"%s are required, but the volume had %s when the controller attached it, and its device %s has %s",
		e.required, e.record.PublishedSize, disk.Path, size).
		WithRemedy("if the PersistentVolume says more than the volume has, correct its spec.capacity.storage, " +
			"or expand the volume; " +
			"if the volume was expanded meanwhile, the filesystem grows when the device does, " +
			"and the claim shows the new size after its pods were restarted")
}

// noteFirstPublish remembers when the first pod got the volume since it was staged: kubelet may
// call NodeExpandVolume as a part of starting that pod; see podStartWindow.
func (p *publishCall) noteFirstPublish(ctx context.Context, dev blockdev.Device) error {
	mounts, err := p.inspector.MountsOf(ctx, dev)
	if err != nil {
		return err
	}
	own := 2 // the staging mount and this one
	if p.access.Block {
		own = 1
	}
	if len(mounts) <= own {
		p.podStartTimes.set(p.id, time.Now())
	}
	return nil
}

// noteRepeatedPublish remembers that kubelet publishes a path again although the volume is already
// there: if NodeExpandVolume has missed its size before, that keeps the pod from its start.
func (p *publishCall) noteRepeatedPublish() {
	if p.missedSizes.get(p.id) > 0 {
		p.podStartTimes.set(p.id, time.Now())
	}
}
