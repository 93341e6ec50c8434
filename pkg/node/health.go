package node

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/health"
	"github.com/growvol/growvol/pkg/node/stagerecord"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// The reasons of NodeGetVolumeHealth.
const (
	reasonDeviceGone      = "DeviceGone"
	reasonFenced          = "NodeFenced"
	reasonDeviceShort     = "DeviceSmallerThanVolume"
	reasonFilesystemShort = "FilesystemSmallerThanVolume"
	reasonFailed          = "FilesystemFailed"
	reasonReadOnly        = "FilesystemReadOnly"
	reasonErrors          = "FilesystemErrors"
)

// The next steps for a device or a filesystem that has not grown with its volume.
const (
	remedyMountWritable = " (next step: start a pod that uses the claim for writing once)"
	remedyRestartPods   = " (next step: restart the pods that use the volume; it grows when it is staged)"
)

// NodeGetVolumeHealth reports what is wrong with a volume on this node, as read in this call, with
// the cause of the last failed growth. The RPC is alpha in CSI v1.13. It returns NOT_FOUND if the
// volume is not on this node, and DEADLINE_EXCEEDED if the device or the filesystem does not
// answer, so that nothing is known.
func (s *Server) NodeGetVolumeHealth(
	ctx context.Context, req *csi.NodeGetVolumeHealthRequest,
) (*csi.NodeGetVolumeHealthResponse, error) {
	id, staging := req.GetVolumeId(), req.GetStagingTargetPath()
	if err := checkID(id); err != nil {
		return nil, err
	}
	for field, path := range map[string]string{
		"volume_publish_path": req.GetVolumePublishPath(), "staging_target_path": staging,
	} {
		if err := checkPath(field, path); path != "" && err != nil {
			return nil, err
		}
	}
	conditions, err := s.readHealth(ctx, id, staging)
	if err != nil {
		return nil, volume.Wrap(err, "read the health of", id)
	}
	return &csi.NodeGetVolumeHealthResponse{VolumeHealth: health.ToCSI(id, conditions)}, nil
}

// readHealth reads the conditions of a volume that is staged here. It uses staging only when the
// record has no staging path: another driver has staged the volume.
func (s *Server) readHealth(ctx context.Context, id, staging string) ([]volume.Condition, error) {
	conn, connected, err := s.opts.Connector.Locate(ctx, id)
	if err != nil {
		return nil, err
	}
	r, err := s.records.Read(id)
	if err != nil {
		return nil, err
	}
	switch {
	case !connected && r.ID == "":
		return nil, volume.Errorf(volume.KindNotFound, "the volume is neither connected to this node nor staged on it")
	case !connected:
		return []volume.Condition{{
			Impairment: volume.ImpairmentInaccessible, Reason: reasonDeviceGone,
			Message: "the volume is staged on this node, but its device is gone " +
				"(next step: delete the pods that use the volume, so that it is attached and staged again)",
		}}, nil
	}
	conn = r.Complete(conn)
	conn.Size = max(conn.Size, s.missedSizes.get(id))
	if err := s.refreshDevice(ctx, id); err != nil { // its content cannot be read
		return []volume.Condition{{Impairment: volume.ImpairmentInaccessible, Reason: reasonFenced, Message: err.Error()}}, nil
	}
	conditions, err := s.deviceConditions(ctx, r, conn)
	if err != nil || r.Block {
		return conditions, err
	}
	if r.Staging != "" {
		staging = r.Staging
	}
	more, err := s.readFilesystemHealth(ctx, id, staging, conn)
	return append(conditions, more...), err
}

// deviceConditions returns conditions if the disk is smaller than the volume, or the mapping of an
// encrypted volume is smaller than its disk allows.
func (s *Server) deviceConditions(
	ctx context.Context, r stagerecord.Record, conn volume.Connection,
) ([]volume.Condition, error) {
	disk, err := s.opts.Devices.ByPath(conn.Path)
	if err != nil {
		return nil, err
	}
	size, err := operation.AwaitCall(ctx, func() (volume.Size, error) { return s.opts.Devices.Size(disk) })
	if err != nil {
		return nil, err
	}
	var conditions []volume.Condition
	if size < conn.MinDeviceSize(conn.Size) {
		message := fmt.Sprintf("the device %s has %s, but the volume has %s", disk.Path, size, conn.Size)
		if conn.ShortRemedy != "" {
			message += " (next step: " + conn.ShortRemedy + ")"
		}
		conditions = append(conditions, degraded(reasonDeviceShort, message))
	}
	if !r.Encrypted {
		return conditions, nil
	}
	more, err := s.mappingConditions(ctx, r, disk, size)
	return append(conditions, more...), err
}

func degraded(reason, message string) volume.Condition {
	return volume.Condition{Impairment: volume.ImpairmentDegraded, Reason: reason, Message: message}
}

// mappingConditions returns a condition if the mapping of an encrypted volume is smaller than its
// disk allows. diskSize is the size of the disk.
func (s *Server) mappingConditions(
	ctx context.Context, r stagerecord.Record, disk blockdev.Device, diskSize volume.Size,
) ([]volume.Condition, error) {
	const maxSector = 4096 // the largest sector of the encryption; a mapping is a multiple of it
	m, mapped, err := s.inspector.FindMapping(ctx, r.ID, disk)
	if err != nil || !mapped || diskSize-m.Offset-m.Size < maxSector {
		return nil, err
	}
	message := fmt.Sprintf("the mapping %s of the encrypted volume has %s, but its disk %s has %s behind the LUKS2 header",
		m.Device.Path, m.Size, disk.Path, diskSize-m.Offset)
	switch cause := s.growthFailures.get(r.ID); {
	case cause != nil:
		message += ": " + cause.Error()
	case r.ReadOnly:
		message += ": the volume is staged read-only, so the mapping cannot grow" + remedyMountWritable
	default:
		message += remedyRestartPods
	}
	return []volume.Condition{degraded(reasonDeviceShort, message)}, nil
}

// readFilesystemHealth reads the conditions of the filesystem that is mounted at the staging path.
// It returns none when nothing is mounted there.
func (s *Server) readFilesystemHealth(
	ctx context.Context, id, staging string, conn volume.Connection,
) ([]volume.Condition, error) {
	if staging == "" {
		return nil, nil
	}
	lease, err := s.lockReading(ctx, id)
	if err != nil {
		return nil, err
	}
	defer lease.Release()
	m, mounted, err := s.inspector.FindMount(ctx, lease, filepath.Clean(staging))
	if err != nil || !mounted {
		return nil, err
	}
	vol, err := s.inspector.OpenMount(ctx, id, m, lease)
	if err != nil {
		return nil, err
	}
	f, err := s.opts.Filesystems.Measure(ctx, vol, m.MountPoint)
	if err != nil {
		return nil, err
	}
	return filesystemConditions(m, f, conn, s.growthFailures.get(id), len(vol.Layers) > 1), nil
}

// filesystemConditions returns the conditions that a measurement shows. failure is that of the last
// growth, or nil.
func filesystemConditions(
	m filesystem.Mount, f filesystem.Measurement, conn volume.Connection, failure error, isMapped bool,
) []volume.Condition {
	failed := fmt.Sprintf("the %s at %s has failed", f.Type, m.MountPoint)
	if f.Failure != nil {
		failed = f.Failure.Error()
	}
	if f.IsShutDown { // its size is unknown
		return []volume.Condition{{Impairment: volume.ImpairmentInaccessible, Reason: reasonFailed, Message: failed}}
	}
	var conditions []volume.Condition
	if f.BecameReadOnly {
		conditions = append(conditions, degraded(reasonReadOnly, failed))
	}
	if f.ErrorCount > 0 {
		conditions = append(conditions, degraded(reasonErrors,
			fmt.Sprintf("%d errors are recorded: %s", f.ErrorCount, failed)))
	}
	// The header of a mapping that another program has opened has an unknown size: only a growth that
	// failed shows that such a mapping is too small.
	isMappingShort := isMapped && failure != nil && !isTransient(failure)
	if !f.FillsDevice || f.FormatLimit > 0 || isMappingShort {
		conditions = append(conditions, degraded(reasonFilesystemShort, filesystemShortMessage(m, f, conn, failure)))
	}
	return conditions
}

// filesystemShortMessage describes a filesystem that is smaller than its volume, with the cause if
// it is known.
func filesystemShortMessage(
	m filesystem.Mount, f filesystem.Measurement, conn volume.Connection, failure error,
) string {
	text := fmt.Sprintf("the %s at %s has %s, but its device has %s", f.Type, m.MountPoint, f.Size, f.DeviceSize)
	if conn.Size > 0 {
		text += fmt.Sprintf(" and the volume has %s", conn.Size)
	}
	switch {
	case failure != nil:
		return text + ": " + failure.Error()
	case f.FormatLimit > 0:
		return text + fmt.Sprintf(": its format ends at %s "+
			"(next step: copy the data to a new volume with ext4 or xfs)", f.FormatLimit)
	case m.IsReadOnly():
		return text + ": the filesystem is mounted read-only, so it cannot grow" + remedyMountWritable
	}
	return text + remedyRestartPods
}
