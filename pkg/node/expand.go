package node

import (
	"cmp"
	"context"
	"errors"
	"path/filepath"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/capability"
	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/node/internal/inspect"
	"github.com/growvol/growvol/pkg/node/stagerecord"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// NodeExpandVolume makes the volume's device, the mappings on it and its filesystem as large as the
// request requires, while they are in use. It reports success only after reading each size back. A
// part that is large enough is not changed, so a repeated call costs only reads.
//
// A path that is not the volume's is never NOT_FOUND: kubelet takes NOT_FOUND as "can never be
// expanded". A device that stays too small is DEADLINE_EXCEEDED with both sizes.
func (s *Server) NodeExpandVolume(
	ctx context.Context, req *csi.NodeExpandVolumeRequest,
) (*csi.NodeExpandVolumeResponse, error) {
	e, err := s.newExpandCall(req)
	if err != nil {
		return nil, err
	}
	size, err := e.run(ctx)
	if err != nil {
		return nil, volume.Wrap(err, "expand", e.id)
	}
	return &csi.NodeExpandVolumeResponse{CapacityBytes: size.Bytes()}, nil
}

// expandCall is one call of NodeExpandVolume.
type expandCall struct {
	*Server
	id            string
	path, staging string         // of the request; staging may be empty
	access        *volume.Access // nil when the request has no capability
	required      volume.Size    // required size of the volume; zero: the size of the device
	passphrase    string         // of the request's secrets; may be empty

	lease      *operation.Lease // of the volume's lock
	conn       volume.Connection
	record     stagerecord.Record
	isPodStart bool // the call may be a part of kubelet's start of a pod; see podStartWindow
}

func (s *Server) newExpandCall(req *csi.NodeExpandVolumeRequest) (*expandCall, error) {
	if err := cmp.Or(checkID(req.GetVolumeId()), checkRequired("volume_path", req.GetVolumePath())); err != nil {
		return nil, err
	}
	r := volume.Range{
		Required: volume.Size(req.GetCapacityRange().GetRequiredBytes()),
		Limit:    volume.Size(req.GetCapacityRange().GetLimitBytes()),
	}
	if _, err := r.Resolve(volume.Limits{}); err != nil {
		return nil, err
	}
	e := &expandCall{
		Server: s, id: req.GetVolumeId(), path: filepath.Clean(req.GetVolumePath()),
		required: r.Required, passphrase: req.GetSecrets()[PassphraseKey],
	}
	if staging := req.GetStagingTargetPath(); staging != "" {
		e.staging = filepath.Clean(staging)
	}
	if req.GetVolumeCapability() != nil {
		access, err := capability.ParseAccess(req.GetVolumeCapability())
		if err != nil {
			return nil, err
		}
		e.access = &access
	}
	return e, nil
}

// run returns the size of the disk after the expansion.
func (e *expandCall) run(ctx context.Context) (volume.Size, error) {
	// This is first, before the path is checked: only an unknown volume is NOT_FOUND.
	conn, connected, err := e.opts.Connector.Locate(ctx, e.id)
	if err != nil {
		return 0, err
	}
	if !connected {
		return 0, volume.Errorf(volume.KindInternal,
			"cannot expand the volume on this node: it is not connected to this node").
			WithRemedy("delete the pod: the volume is connected again when the pod starts, and grows then")
	}
	if err := checkPath("volume_path", e.path); err != nil {
		return 0, err
	}
	start := time.Now()
	e.lease, err = e.lockVolume(ctx, e.id)
	e.opts.Metrics.phaseDone(PhaseLock, start, err)
	if err != nil {
		return 0, err
	}
	defer e.lease.Release()
	if err := e.refreshDevice(ctx, e.id); err != nil {
		return 0, err
	}
	if e.record, err = e.records.Read(e.id); err != nil {
		return 0, err
	}
	e.conn = e.record.Complete(conn)
	published := e.podStartTimes.get(e.id)
	e.podStartTimes.forget(e.id) // only one call is a part of the start
	e.isPodStart = !published.IsZero() && time.Since(published) <= podStartWindow
	isBlock, err := e.isBlock(ctx)
	if err != nil {
		return 0, err
	}
	if isBlock {
		return e.growBlock(ctx)
	}
	return e.growMounted(ctx)
}

// isBlock reports whether the path is a published device node. The request's capability is
// optional; one that contradicts the path is an error.
func (e *expandCall) isBlock(ctx context.Context) (bool, error) {
	isNode, err := isDeviceNode(ctx, e.path)
	if err != nil {
		return false, err
	}
	if e.access != nil && e.access.Block != isNode {
		want, found := "a directory", "a block device"
		if e.access.Block {
			want, found = found, want
		}
		return false, volume.Errorf(volume.KindInternal, "%s must be %s, but is %s", e.path, want, found).
			WithRemedy("delete the pod: the volume is published again when the pod starts")
	}
	return isNode, nil
}

// isDeviceNode reports whether path is a block special file.
func isDeviceNode(ctx context.Context, path string) (bool, error) {
	mode, err := operation.AwaitCall(ctx, func() (uint32, error) {
		var st unix.Stat_t
		err := unix.Stat(path, &st)
		return st.Mode, err
	})
	if err != nil {
		return false, volume.Errorf(volume.KindOf(err), "cannot read the path %s: %w", path, err).
			WithRemedy("delete the pod: the volume is published again when the pod starts")
	}
	return mode&unix.S_IFMT == unix.S_IFBLK, nil
}

// growBlock grows a raw block volume: its disk, and the mapping on the disk if the volume is
// encrypted. It returns the size of the disk; the pod sees less by the LUKS2 header.
func (e *expandCall) growBlock(ctx context.Context) (volume.Size, error) {
	dev, err := e.opts.Devices.ByPath(e.path)
	if err != nil {
		return 0, err
	}
	vol, err := e.inspector.Open(ctx, e.id, dev, e.lease)
	if err != nil {
		return 0, err
	}
	size, err := e.awaitDisk(ctx, vol.Disk())
	if err != nil {
		return 0, err
	}
	g := growth{vol: vol, occasion: occasionExpand, passphrase: e.passphrase}
	return size, e.growVolume(ctx, g, e.lease)
}

// growMounted grows a mounted filesystem and the layers below it.
func (e *expandCall) growMounted(ctx context.Context) (volume.Size, error) {
	m, err := e.mountAt(ctx, e.path)
	if err != nil {
		return 0, err
	}
	vol, err := e.inspector.OpenMount(ctx, e.id, m, e.lease)
	if err != nil {
		return 0, err
	}
	size, err := e.awaitDisk(ctx, vol.Disk())
	if err != nil {
		return 0, err
	}
	mountPoint, err := e.growthMount(ctx, m, vol)
	if err != nil {
		return 0, err
	}
	// The filesystem must reach what the request requires, not the volume's size: the limit of its
	// format can lie between the two. It cannot reach what the disk hides of the volume.
	err = e.growVolume(ctx, growth{
		vol: vol, occasion: occasionExpand, mountPoint: mountPoint,
		required: min(e.required, size), passphrase: e.passphrase,
	}, e.lease)
	if err != nil {
		return 0, err
	}
	return size, e.recordStaging(vol.Disk())
}

// recordStaging writes the record of a volume that has none, because another driver or an older
// version has staged it. From then on the volume grows with its device.
func (e *expandCall) recordStaging(disk blockdev.Device) error {
	if e.record.ID != "" || e.staging == "" {
		return nil
	}
	return e.records.Write(stagerecord.Record{
		ID: e.id, Staging: e.staging,
		Size: max(e.required, e.conn.Size), Granularity: e.conn.Granularity, MaxOverhead: e.conn.MaxOverhead,
		Major: disk.Major, Minor: disk.Minor,
	})
}

// mountAt returns the mount at exactly this path. A plain directory there means that the mount is
// lost; the filesystem that contains the directory is the node's own and must not be touched.
func (e *expandCall) mountAt(ctx context.Context, path string) (filesystem.Mount, error) {
	m, mounted, err := e.inspector.FindMount(ctx, e.lease, path)
	if err == nil && !mounted {
		err = volume.Errorf(volume.KindInternal,
			"%s is not a mount point: the volume's mount is lost; nothing was changed", path).
			WithRemedy("delete the pod: the volume is mounted again when the pod starts")
	}
	return m, err
}

// growthMount returns the mount point on whose descriptor the filesystem grows: the staging mount,
// because the published one can be a read-only bind mount. Without a staging path it is the
// published mount, or a writable mount of the device if the published one is read-only.
func (e *expandCall) growthMount(
	ctx context.Context, published filesystem.Mount, vol *inspect.Volume,
) (string, error) {
	if e.staging != "" && e.staging != e.path {
		var err error
		if e.staging, err = e.stagedPath(ctx, e.id, e.staging, e.lease); err != nil {
			return "", err
		}
		m, err := e.mountAt(ctx, e.staging)
		if err != nil {
			return "", err
		}
		isVolume, err := e.inspector.IsMountOf(m, vol.Device)
		if err == nil && !isVolume {
			err = volume.Errorf(volume.KindInternal, "%s (%s) is mounted at the staging path %s, but the volume is on %s",
				m.Source, m.FSType, e.staging, vol.Path()).
				WithRemedy("delete the pod: the volume is staged again when the pod starts")
		}
		return e.staging, err
	}
	if !published.IsReadOnly() {
		return e.path, nil
	}
	mounts, err := e.inspector.MountsOf(ctx, vol.Device)
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

// awaitDisk waits until the disk is as large as the disk of such a volume must be, and returns its
// size as read.
func (e *expandCall) awaitDisk(ctx context.Context, disk blockdev.Device) (size volume.Size, err error) {
	start := time.Now()
	defer func() { e.opts.Metrics.phaseDone(PhaseDevice, start, err) }()
	volumeSize := max(e.required, e.conn.Size)
	want := e.conn.MinDeviceSize(volumeSize)
	waitCtx, cancel := e.withDeviceTimeout(ctx)
	defer cancel()
	size, err = e.opts.Devices.AwaitSize(waitCtx, disk, want)
	switch {
	case err == nil && size < want:
		return 0, volume.Errorf(volume.KindInternal,
			"the device %s was reported as grown, but its size is still %s instead of %s", disk.Path, size, want)
	case err == nil:
		e.missedSizes.forget(e.id)
		return size, nil
	case ctx.Err() == nil && waitCtx.Err() != nil && e.keepsPod() &&
		size >= e.conn.MinDeviceSize(e.record.PublishedSize):
		e.missedSizes.forget(e.id)
		return 0, e.exceedsVolumeError(disk, size)
	case volume.IsKind(err, volume.KindDeadline):
		e.missedSizes.set(e.id, volumeSize)
	}
	return 0, explainShortDevice(e.conn, volumeSize, err)
}

// explainShortDevice completes an error of kind Deadline for a device that is smaller than the
// device of a volume of this size must be: with the connector's remedy, and with what an encryption
// below this node can hide.
func explainShortDevice(conn volume.Connection, size volume.Size, err error) error {
	timeout, ok := errors.AsType[*volume.Error](err)
	if !ok || timeout.Kind != volume.KindDeadline {
		return err
	}
	if conn.ShortRemedy != "" {
		timeout = timeout.WithRemedy(conn.ShortRemedy)
	}
	if conn.MaxOverhead == 0 {
		return timeout
	}
	whole, _ := size.RoundUp(conn.Granularity)
	return volume.Errorf(timeout.Kind,
		"the device has not shown the size of a volume of %s (an encryption below this node may hide up to %s of it): %w",
		whole, conn.MaxOverhead, timeout)
}
