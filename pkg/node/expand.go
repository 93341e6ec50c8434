package node

import (
	"context"
	"path/filepath"
	"time"

	"github.com/growvol/growvol/pkg/operation"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/capability"
	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/volume"
)

// PassphraseKey is the key of the node stage secret that holds the LUKS
// passphrase of an encrypted volume. The node expand secret may have it too, for
// a mapping that somebody else has made: LUKS2 wants the passphrase again for a
// resize when the volume key is kept in the kernel's keyring.
const PassphraseKey = "passphrase"

// NodeExpandVolume makes the volume's device, the mappings on it and its
// filesystem as large as the request demands, while they are in use, and
// answers OK only after each was read back at its new size. What is large
// enough already is left alone, so a repeated call costs a few reads.
//
// Path problems are never NOT_FOUND here: kubelet takes that as "can never be
// expanded". A device that stays short is DEADLINE_EXCEEDED with both sizes.
func (s *Server) NodeExpandVolume(ctx context.Context, req *csi.NodeExpandVolumeRequest) (*csi.NodeExpandVolumeResponse, error) {
	id := req.GetVolumeId()
	e, err := s.newExpandCall(req)
	if err != nil {
		return nil, err
	}
	ctx, cancel := s.withAnswerMargin(ctx)
	defer cancel()
	size, err := e.run(ctx)
	if err != nil {
		return nil, volume.Wrap(err, "expand", id)
	}
	return &csi.NodeExpandVolumeResponse{CapacityBytes: size.Bytes()}, nil
}

// expandCall is one NodeExpandVolume under way.
type expandCall struct {
	*Server
	id            string
	path, staging string
	access        *volume.Access // nil when the request has no capability
	required      volume.Size    // of the volume; zero: whatever the device has
	secrets       map[string]string
	conn          volume.Connection
	record        record
	isPodStart    bool // kubelet may be asking as a part of starting the first pod
	lease         *operation.Lease
}

func (s *Server) newExpandCall(req *csi.NodeExpandVolumeRequest) (*expandCall, error) {
	if err := checkID(req.GetVolumeId()); err != nil {
		return nil, err
	}
	if req.GetVolumePath() == "" {
		return nil, invalidf("volume_path is missing from the request")
	}
	r := volume.Range{Required: volume.Size(req.GetCapacityRange().GetRequiredBytes()), Limit: volume.Size(req.GetCapacityRange().GetLimitBytes())}
	if _, err := r.Resolve(volume.Limits{}); err != nil {
		return nil, err
	}
	e := &expandCall{Server: s, id: req.GetVolumeId(), path: filepath.Clean(req.GetVolumePath()), required: r.Required, secrets: req.GetSecrets()}
	if staging := req.GetStagingTargetPath(); staging != "" {
		e.staging = filepath.Clean(staging)
	}
	if req.GetVolumeCapability() != nil {
		access, err := capability.Access(req.GetVolumeCapability())
		if err != nil {
			return nil, err
		}
		e.access = &access
	}
	return e, nil
}

func (e *expandCall) run(ctx context.Context) (volume.Size, error) {
	// First of all: a volume that the backend does not know is the one case
	// of NOT_FOUND.
	conn, connected, err := e.opts.Connector.Locate(ctx, e.id)
	if err != nil {
		return 0, err
	}
	if !connected {
		return 0, volume.Errorf(volume.KindInternal, "the volume is not connected to this node, although it is to grow here").
			WithRemedy("delete the pod; the volume is connected again when the pod starts, and grows then")
	}
	if err := checkPath("volume_path", e.path); err != nil {
		return 0, err
	}
	start := time.Now()
	lock, err := e.lockVolume(ctx, e.id)
	e.opts.Observer.PhaseDone(PhaseLock, time.Since(start), err)
	if err != nil {
		return 0, err
	}
	e.lease = e.Server.lease(e.id, lock.unlock)
	defer e.lease.Release()
	if e.record, err = e.readRecord(e.id); err != nil {
		return 0, err
	}
	e.conn = e.record.connection(conn)
	first := e.firstPublishTimes.get(e.id)
	e.firstPublishTimes.forget(e.id) // only one call is a part of the start
	e.isPodStart = !first.IsZero() && time.Since(first) <= podStartWindow
	block, err := e.isBlock(ctx)
	if err != nil {
		return 0, err
	}
	if block {
		return e.growBlock(ctx)
	}
	return e.growMounted(ctx)
}

// isBlock reports whether the path is a published device node. A request
// without a capability (it is optional) is judged by the path; a capability
// that contradicts the path means that the path is not what it is taken for.
func (e *expandCall) isBlock(ctx context.Context) (bool, error) {
	node, err := isDeviceNode(ctx, e.path)
	if err != nil {
		return false, err
	}
	if e.access != nil && e.access.Block != node {
		want, is := "a directory", "a block device"
		if e.access.Block {
			want, is = is, want
		}
		return false, volume.Errorf(volume.KindInternal, "%s should be %s but is %s", e.path, want, is).
			WithRemedy("delete the pod, so that the volume is published again")
	}
	return node, nil
}

// growBlock is growth of a raw block volume: its disk, and the mapping on it
// if it is encrypted. The size is that of the disk, as the volume's is; what
// the pod has of it is less by the LUKS2 header.
func (e *expandCall) growBlock(ctx context.Context) (volume.Size, error) {
	dev, err := e.opts.Devices.ByPath(e.path)
	if err != nil {
		return 0, err
	}
	o, size, err := e.openGrownDisk(ctx, dev)
	if err != nil {
		return 0, err
	}
	err = e.growVolume(ctx, growth{vol: o, occasion: OccasionExpand, passphrase: e.secrets[PassphraseKey]}, e.lease)
	return size, err
}

// growMounted is growth of a mounted filesystem, and of what lies below it.
func (e *expandCall) growMounted(ctx context.Context) (volume.Size, error) {
	m, err := e.mountAt(ctx, e.path)
	if err != nil {
		return 0, err
	}
	dev, err := e.deviceOfMount(m)
	if err != nil {
		return 0, err
	}
	o, size, err := e.openGrownDisk(ctx, dev)
	if err != nil {
		return 0, err
	}
	at, err := e.growthMount(ctx, m, o)
	if err != nil {
		return 0, err
	}
	// The filesystem is asked for what the user wants, not for all the
	// volume has: its format may have a limit between the two. What is
	// hidden of the volume no filesystem on it can have.
	err = e.growVolume(ctx, growth{
		vol: o, occasion: OccasionExpand, mountPoint: at, required: min(e.required, size), passphrase: e.secrets[PassphraseKey],
	}, e.lease)
	if err != nil {
		return 0, err
	}
	return size, e.recordForeignStaging(o.disk())
}

// recordForeignStaging records a volume that another driver or an older version has staged,
// so that it grows with its device from now on.
func (e *expandCall) recordForeignStaging(disk blockdev.Device) error {
	if e.record.ID != "" || e.staging == "" {
		return nil
	}
	return e.saveRecord(record{
		ID: e.id, Staging: e.staging, Size: max(e.required, e.conn.Size), Granule: e.conn.Granularity, Hidden: e.conn.MaxOverhead,
		Major: disk.Major, Minor: disk.Minor,
	})
}

// mountAt returns the mount at exactly this path. A plain directory there
// means that the mount is lost; the filesystem that contains the directory is
// the node's own and is never touched.
func (e *expandCall) mountAt(ctx context.Context, path string) (filesystem.Mount, error) {
	m, ok, err := e.findMount(ctx, e.lease, path)
	if err != nil {
		return filesystem.Mount{}, err
	}
	if !ok {
		return filesystem.Mount{}, volume.Errorf(volume.KindInternal, "%s is not a mount point: the volume's mount is lost, and nothing was touched", path).
			WithRemedy("delete the pod, so that the volume is mounted anew")
	}
	return m, nil
}

// growthMount chooses the mount on whose descriptor the filesystem grows: the
// staging mount, because the published one may be a read-only bind.
func (e *expandCall) growthMount(ctx context.Context, published filesystem.Mount, vol *openVolume) (string, error) {
	if e.staging != "" && e.staging != e.path {
		m, err := e.mountAt(ctx, e.staging)
		if err != nil {
			return "", err
		}
		same, err := e.isMountOf(m, vol.device)
		if err != nil {
			return "", err
		}
		if !same {
			return "", volume.Errorf(volume.KindInternal, "%s (%s) is mounted at the staging path %s, but the volume is on %s", m.Source, m.FSType, e.staging, vol.Path()).
				WithRemedy("delete the pod, so that the volume is staged anew")
		}
		return e.staging, nil
	}
	if !published.IsReadOnly() {
		return e.path, nil
	}
	mounts, err := e.mountsOf(ctx, vol.device)
	if err != nil {
		return "", err
	}
	for _, m := range mounts {
		if !m.IsReadOnly() {
			return m.MountPoint, nil
		}
	}
	return e.path, nil
}

// openGrownDisk opens dev, waits until the disk below it has the size that the
// volume's demands, and returns that size as read.
func (e *expandCall) openGrownDisk(ctx context.Context, dev blockdev.Device) (*openVolume, volume.Size, error) {
	o, err := e.openVerified(ctx, e.id, dev, e.lease)
	if err != nil {
		return nil, 0, err
	}
	start := time.Now()
	size, err := e.awaitDisk(ctx, o.disk())
	e.opts.Observer.PhaseDone(PhaseDevice, time.Since(start), err)
	return o, size, err
}

// awaitDisk waits until the disk is as large as one of the volume must be, and
// returns what it reads.
func (e *expandCall) awaitDisk(ctx context.Context, disk blockdev.Device) (volume.Size, error) {
	volumeSize := max(e.required, e.conn.Size)
	want := e.conn.DeviceSize(volumeSize)
	wait, cancel := e.withDeviceTimeout(ctx)
	defer cancel()
	size, err := e.opts.Devices.AwaitSize(wait, disk, want)
	switch {
	case err == nil && size < want:
		return 0, volume.Errorf(volume.KindInternal, "the device %s was reported as grown, but its size is still %s instead of %s", disk.Path, size, want)
	case err == nil:
		e.Server.missedSizes.forget(e.id)
		return size, nil
	case ctx.Err() == nil && wait.Err() != nil && size >= e.conn.DeviceSize(e.record.Attached):
		return 0, e.exceedsVolumeError(disk, size)
	case volume.IsKind(err, volume.KindDeadline):
		e.Server.missedSizes.set(e.id, volumeSize)
	}
	return 0, explainShortDevice(e.conn, volumeSize, err)
}

const (
	// podStartWindow is how long after its first publish a NodeExpandVolume is taken
	// for the one with which kubelet ends the mounting of a volume whose
	// PersistentVolume says more than the claim's status. The pod waits for it.
	podStartWindow = 10 * time.Second
	// podStartDeviceTimeout is how long such a call waits for the device. It has room
	// for a cloud's late news: kubelet does not ask again after the refusal.
	podStartDeviceTimeout = 15 * time.Second
)

// withDeviceTimeout bounds the wait for the device. It is short while the first pod
// starts and the volume had less than is required when it was attached: then
// the PersistentVolume may say more than the volume has, and nothing would come.
func (e *expandCall) withDeviceTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	attached := e.record.Attached
	if e.isPodStart && attached > 0 && e.conn.DeviceSize(e.required) > e.conn.DeviceSize(max(attached, e.conn.Size)) {
		return context.WithTimeout(ctx, podStartDeviceTimeout)
	}
	return context.WithCancel(ctx)
}

// exceedsVolumeError is the error for a volume that had less than is required when
// the controller attached it, and whose device agrees. kubelet lets the pod
// start with what there is.
func (e *expandCall) exceedsVolumeError(disk blockdev.Device, size volume.Size) error {
	return volume.Errorf(volume.KindPrecondition, "%s are required, but the volume had %s when the controller attached it, and its device %s has %s",
		e.required, e.record.Attached, disk.Path, size).
		WithRemedy("if the PersistentVolume says more than the volume has, correct its capacity or expand the volume; " +
			"if the volume was expanded meanwhile, the filesystem grows when the device does, and the claim says so after its pods were restarted")
}
