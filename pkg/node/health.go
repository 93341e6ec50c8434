package node

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/growvol/growvol/pkg/operation"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/health"
	"github.com/growvol/growvol/pkg/volume"
)

// The reasons of NodeGetVolumeHealth.
const (
	ReasonDeviceGone      = "DeviceGone"
	ReasonDeviceShort     = "DeviceSmallerThanVolume"
	ReasonFilesystemShort = "FilesystemSmallerThanVolume"
	ReasonFailed          = "FilesystemFailed"
	ReasonReadOnly        = "FilesystemReadOnly"
	ReasonErrors          = "FilesystemErrors"
)

// NodeGetVolumeHealth reports what is wrong with a volume on this node, as
// read at this moment. The call is alpha in CSI v1.13. NOT_FOUND: the volume
// is not on this node. A filesystem that does not answer is
// DEADLINE_EXCEEDED, since nothing is known of it.
func (s *Server) NodeGetVolumeHealth(ctx context.Context, req *csi.NodeGetVolumeHealthRequest) (*csi.NodeGetVolumeHealthResponse, error) {
	id := req.GetVolumeId()
	if err := checkID(id); err != nil {
		return nil, err
	}
	for field, path := range map[string]string{"volume_publish_path": req.GetVolumePublishPath(), "staging_target_path": req.GetStagingTargetPath()} {
		if path == "" {
			continue
		}
		if err := checkPath(field, path); err != nil {
			return nil, err
		}
	}
	ctx, cancel := s.withAnswerMargin(ctx)
	defer cancel()
	conditions, err := s.readHealth(ctx, id, req.GetStagingTargetPath())
	if err != nil {
		return nil, volume.Wrap(err, "read the health of", id)
	}
	return &csi.NodeGetVolumeHealthResponse{VolumeHealth: health.ToCSI(id, conditions)}, nil
}

// readHealth reads the conditions of a volume that is staged here. staging may be
// empty: the record has it, unless another driver staged the volume.
func (s *Server) readHealth(ctx context.Context, id, staging string) ([]volume.Condition, error) {
	conn, connected, err := s.opts.Connector.Locate(ctx, id)
	if err != nil {
		return nil, err
	}
	r, err := s.readRecord(id)
	if err != nil {
		return nil, err
	}
	switch {
	case !connected && r.ID == "":
		return nil, volume.Errorf(volume.KindNotFound, "the volume is neither connected to this node nor staged on it")
	case !connected:
		return []volume.Condition{{
			Impairment: volume.ImpairmentInaccessible, Reason: ReasonDeviceGone,
			Message: "the volume is staged on this node, but its device is gone (next step: delete the pods that use the volume, so that it is attached and staged again)",
		}}, nil
	}
	conn = r.connection(conn)
	conn.Size = max(conn.Size, s.missedSizes.get(id))
	disk, err := s.opts.Devices.ByPath(conn.Path)
	if err != nil {
		return nil, err
	}
	size, err := operation.AwaitCall(ctx, func() (volume.Size, error) { return s.opts.Devices.Size(disk) })
	if err != nil {
		return nil, err
	}
	var conditions []volume.Condition
	if short := deviceShortCondition(conn, disk, size); short != nil {
		conditions = append(conditions, *short)
	}
	if r.Encrypted {
		short, err := s.mappingShortCondition(ctx, r, disk, size)
		if err != nil {
			return nil, err
		}
		if short != nil {
			conditions = append(conditions, *short)
		}
	}
	if r.Block {
		return conditions, nil
	}
	if r.Staging != "" {
		staging = r.Staging
	}
	more, err := s.readFilesystemHealth(ctx, id, staging, conn)
	return append(conditions, more...), err
}

// deviceShortCondition returns the condition of a device that is smaller than its
// volume, nil when it is not.
func deviceShortCondition(conn volume.Connection, disk blockdev.Device, size volume.Size) *volume.Condition {
	if size >= conn.DeviceSize(conn.Size) {
		return nil
	}
	message := fmt.Sprintf("the device %s has %s, the volume %s", disk.Path, size, conn.Size)
	if conn.ShortRemedy != "" {
		message += " (next step: " + conn.ShortRemedy + ")"
	}
	return &volume.Condition{Impairment: volume.ImpairmentDegraded, Reason: ReasonDeviceShort, Message: message}
}

// mappingShortCondition returns the condition of the mapping of an encrypted volume that
// is smaller than its disk allows, nil when it is not. The filesystem is
// compared with the mapping alone.
func (s *Server) mappingShortCondition(
	ctx context.Context, r record, disk blockdev.Device, size volume.Size,
) (*volume.Condition, error) {
	const maxSector = 4096 // of the encryption: a mapping is a multiple of it
	m, mapped, err := s.findMapping(ctx, r.ID, disk)
	if err != nil || !mapped || size-m.Offset-m.Size < maxSector {
		return nil, err
	}
	message := fmt.Sprintf("the mapping %s of the encrypted volume has %s, and its disk %s has %s behind the LUKS2 header",
		m.Device.Path, m.Size, disk.Path, size-m.Offset)
	switch cause := s.growthFailures.get(r.ID); {
	case cause != nil:
		message += ": " + cause.Error()
	case r.ReadOnly:
		message += ": it is staged read-only, and cannot grow (next step: mount the volume for writing once)"
	default:
		message += " (next step: restart the pods that use the volume; it grows when it is staged)"
	}
	return &volume.Condition{Impairment: volume.ImpairmentDegraded, Reason: ReasonDeviceShort, Message: message}, nil
}

// readFilesystemHealth reads the conditions of the filesystem that is mounted at
// the staging path; none when nothing is mounted there.
func (s *Server) readFilesystemHealth(ctx context.Context, id, staging string, conn volume.Connection) ([]volume.Condition, error) {
	if staging == "" {
		return nil, nil
	}
	// The lock keeps the readings that hang to one per volume.
	unlock, err := s.lockStats(ctx, id)
	if err != nil {
		return nil, err
	}
	l := operation.NewLease(unlock)
	defer l.Release()
	m, mounted, err := s.findMount(ctx, l, filepath.Clean(staging))
	if err != nil || !mounted {
		return nil, err
	}
	dev, err := s.deviceOfMount(m)
	if err != nil {
		return nil, err
	}
	vol, err := s.openVerified(ctx, id, dev, l)
	if err != nil {
		return nil, err
	}
	measured, err := s.opts.Filesystems.Measure(ctx, vol, m.MountPoint)
	if err != nil {
		return nil, err
	}
	conditions := s.filesystemConditions(id, m, measured, conn)
	// Of a mapping that somebody else has made the header's size is not known
	// here: only a growth that failed tells that it is too small.
	cause := s.growthFailures.get(id)
	if len(vol.layers) > 1 && measured.FillsDevice && measured.FormatLimit == 0 && !measured.IsShutDown && cause != nil && !isTransient(cause) {
		conditions = append(conditions, volume.Condition{
			Impairment: volume.ImpairmentDegraded, Reason: ReasonFilesystemShort, Message: s.filesystemShortMessage(id, m, measured, conn),
		})
	}
	return conditions, nil
}

// filesystemConditions turns a measurement into conditions.
func (s *Server) filesystemConditions(id string, m filesystem.Mount, f filesystem.Measurement, conn volume.Connection) []volume.Condition {
	var conditions []volume.Condition
	add := func(impairment volume.Impairment, reason, message string) {
		conditions = append(conditions, volume.Condition{Impairment: impairment, Reason: reason, Message: message})
	}
	failure := fmt.Sprintf("the %s at %s has failed", f.Type, m.MountPoint)
	if f.Failure != nil {
		failure = f.Failure.Error()
	}
	if f.IsShutDown {
		add(volume.ImpairmentInaccessible, ReasonFailed, failure)
		return conditions // its size is not known any more
	}
	if f.BecameReadOnly {
		add(volume.ImpairmentDegraded, ReasonReadOnly, failure)
	}
	if f.ErrorCount > 0 {
		add(volume.ImpairmentDegraded, ReasonErrors, fmt.Sprintf("%d errors are recorded: %s", f.ErrorCount, failure))
	}
	if !f.FillsDevice || f.FormatLimit > 0 {
		add(volume.ImpairmentDegraded, ReasonFilesystemShort, s.filesystemShortMessage(id, m, f, conn))
	}
	return conditions
}

// filesystemShortMessage describes a filesystem that is smaller than its volume, with
// the cause as far as it is known.
func (s *Server) filesystemShortMessage(id string, m filesystem.Mount, f filesystem.Measurement, conn volume.Connection) string {
	text := fmt.Sprintf("the %s at %s has %s, its device %s", f.Type, m.MountPoint, f.Size, f.DeviceSize)
	if conn.Size > 0 {
		text += fmt.Sprintf(", the volume %s", conn.Size)
	}
	cause := s.growthFailures.get(id)
	switch {
	case cause != nil:
		return text + ": " + cause.Error()
	case f.FormatLimit > 0:
		return text + fmt.Sprintf(": its format ends at %s (next step: copy the data to a new volume with ext4 or xfs)", f.FormatLimit)
	case m.IsReadOnly():
		return text + ": it is mounted read-only, and cannot grow (next step: mount the volume for writing once)"
	}
	return text + " (next step: restart the pods that use the volume; it grows when it is staged)"
}
