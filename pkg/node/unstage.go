package node

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/luks"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// NodeUnstageVolume unmounts the staging path, closes the mapping of an encrypted volume and
// disconnects the volume.
func (s *Server) NodeUnstageVolume(
	ctx context.Context, req *csi.NodeUnstageVolumeRequest,
) (*csi.NodeUnstageVolumeResponse, error) {
	id, path := req.GetVolumeId(), req.GetStagingTargetPath()
	if err := cmp.Or(checkID(id), checkPath("staging_target_path", path)); err != nil {
		return nil, err
	}
	if err := s.unstage(ctx, id, filepath.Clean(path)); err != nil {
		return nil, volume.Wrap(err, "unstage", id)
	}
	return &csi.NodeUnstageVolumeResponse{}, nil
}

func (s *Server) unstage(ctx context.Context, id, path string) error {
	lease, err := s.lockVolumeAndPublish(ctx, id)
	if err != nil {
		return err
	}
	defer lease.Release()
	if err := s.stopTrim(ctx, id); err != nil {
		return err
	}
	if err := s.unmountAll(ctx, id, path, lease); err != nil {
		return err
	}
	if err := s.unmountCephCSI(ctx, id, path, lease); err != nil {
		return err
	}
	conn, connected, err := s.opts.Connector.Locate(ctx, id)
	if err != nil && !volume.IsKind(err, volume.KindNotFound) {
		return err
	}
	// A volume that is not connected may have lost its disk, and its record, below a mapping that is
	// still open.
	mayBeMapped := true
	if err == nil && connected {
		hasHolders, err := s.checkUnused(ctx, id, conn.Path)
		if err != nil {
			return err
		}
		// The unstaging of a plain volume must not depend on device mapper. A record that cannot be
		// read proves nothing.
		r, err := s.records.Read(id)
		mayBeMapped = hasHolders || err != nil || r.Encrypted
	}
	if mayBeMapped {
		if err := s.closeMapping(ctx, id, conn.Path, lease); err != nil {
			return err
		}
	}
	if err := s.opts.Connector.Disconnect(ctx, id); err != nil {
		return err
	}
	if err := removeCephCSIStaging(id, path); err != nil {
		return err
	}
	s.podStartTimes.forget(id)
	s.growthFailures.forget(id)
	s.missedSizes.forget(id)
	s.lastReadings.forget(id)
	return s.records.Remove(id)
}

// checkUnused returns an error when the disk at path, or the volume's mapping on it, is mounted or
// published: after the disconnection a device node in a pod could show the next volume, which may
// get the disk's number. hasHolders reports whether anything rests on the disk. checkUnused also
// removes the markers of a format that was not interrupted.
func (s *Server) checkUnused(ctx context.Context, id, path string) (hasHolders bool, err error) {
	dev, err := s.opts.Devices.ByPath(path)
	if err != nil {
		return false, err
	}
	if err := s.checkUnpublished(ctx, dev); err != nil {
		return false, err
	}
	holders, err := s.opts.Devices.Holders(dev)
	if err != nil {
		return false, err
	}
	m, mapped, err := s.inspector.FindMapping(ctx, id, dev)
	if err != nil {
		return false, err
	}
	if mapped {
		dev = m.Device // the content of the volume is read there
		if err := s.checkUnpublished(ctx, dev); err != nil {
			return false, err
		}
	}
	return len(holders) > 0, s.removeUselessMarkers(ctx, id, dev)
}

// removeUselessMarkers removes the markers of a format unless the format was interrupted: only then
// does a retry need them.
func (s *Server) removeUselessMarkers(ctx context.Context, id string, dev blockdev.Device) error {
	if !fileExists(s.formatMarker(id)) && !fileExists(s.encryptionMarker(id)) {
		return nil
	}
	sig, err := s.probe(ctx, id, dev)
	switch {
	case err != nil:
		s.log.WarnContext(ctx, "cannot read what a volume holds before its disconnection: the markers of its format are kept",
			"volume", id, "device", dev.Path, "error", err)
	case sig.State == filesystem.StateBlank, sig.State == filesystem.StateFormatted && sig.IsComplete:
		return s.removeMarkers(id)
	}
	return nil
}

func fileExists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// checkUnpublished returns an error when a device is mounted or published somewhere.
func (s *Server) checkUnpublished(ctx context.Context, dev blockdev.Device) error {
	mounts, err := s.inspector.MountsOf(ctx, dev)
	if err != nil || len(mounts) == 0 {
		return err
	}
	return volume.Errorf(volume.KindPrecondition, "the volume is still in use at %s", mounts[0].MountPoint).
		WithRemedy("delete the pod that uses the volume there")
}

// probe reads what the volume holds.
func (s *Server) probe(ctx context.Context, id string, dev blockdev.Device) (filesystem.Signature, error) {
	lease := operation.NewLease(nil)
	defer lease.Release()
	vol, err := s.inspector.Open(ctx, id, dev, lease)
	if err != nil {
		return filesystem.Signature{}, err
	}
	return s.opts.Filesystems.Probe(ctx, vol)
}

// unmountAll unmounts what is mounted at path, one mount after another, each after it is proved to
// be a mount of this volume. A mount that is not proved is left alone, with an error that names it,
// also when it was below a mount of this volume.
func (s *Server) unmountAll(ctx context.Context, id, path string, lease *operation.Lease) error {
	if info, err := os.Lstat(path); err == nil && info.Mode()&fs.ModeSymlink != 0 {
		return volume.Errorf(volume.KindPrecondition, "%s is a symbolic link, not a mount point; it is left alone", path)
	}
	for {
		m, mounted, err := s.inspector.FindMount(ctx, lease, path)
		if err != nil || !mounted {
			return err
		}
		if err := s.inspector.CheckOwnMount(ctx, id, m); err != nil {
			return err
		}
		err = runStep(ctx, lease, "unmounting "+path, func(ctx context.Context) error {
			return s.opts.Filesystems.Unmount(ctx, m)
		})
		if err != nil {
			return err
		}
	}
}

// closeMapping closes the mapping of a volume, if there is one, and returns once it is gone. A
// mapping in use is an error. A mapping on a disk that is proved to be another volume's is left
// alone: it does not prevent the disconnection. diskPath is the volume's disk, empty when it is not
// connected.
func (s *Server) closeMapping(ctx context.Context, id, diskPath string, lease *operation.Lease) error {
	m, mapped, err := s.opts.Mappings.Find(ctx, id)
	if volume.IsKind(err, volume.KindPrecondition) {
		s.log.WarnContext(ctx, "leaving a device-mapper device with the name of this volume's mapping, which is another one",
			"volume", id, "error", err)
		return nil
	}
	if err != nil {
		return err
	}
	if mapped {
		if isOwn, err := s.isOwnMapping(ctx, id, m); err != nil || !isOwn {
			return err
		}
	}
	// Close also removes what a crash has left of a mapping.
	return runStep(ctx, lease, "closing the mapping of the encrypted volume", func(ctx context.Context) error {
		if diskPath == "" {
			return s.opts.Mappings.Close(ctx, id)
		}
		disk, err := s.opts.Devices.ByPath(diskPath)
		if err != nil {
			return err
		}
		return s.opts.Mappings.CloseOn(ctx, id, disk)
	})
}

// isOwnMapping reports whether a mapping with the name of this volume's is the volume's: the disk
// below it is the volume's, or the disk is provably gone.
func (s *Server) isOwnMapping(ctx context.Context, id string, m luks.Mapping) (bool, error) {
	if m.DiskGone {
		return true, nil
	}
	err := s.opts.Connector.Verify(ctx, id, m.Disk.Path)
	switch {
	case err == nil, errors.Is(err, volume.ErrGone):
		return true, nil
	case volume.IsKind(err, volume.KindPrecondition), volume.IsKind(err, volume.KindNotFound):
		if isLocated, locateErr := s.isLocatedDisk(ctx, id, m.Disk); locateErr != nil || isLocated {
			return false, cmp.Or(locateErr, err) // the disconnection would take the disk from the mapping
		}
		s.log.WarnContext(ctx, "a mapping with the name of this volume's mapping rests on another disk; it is left alone",
			"volume", id, "mapping", m.String(), "error", err)
		return false, nil
	}
	return false, err
}

// isLocatedDisk reports whether disk is the one that the connector locates for the volume.
func (s *Server) isLocatedDisk(ctx context.Context, id string, disk blockdev.Device) (bool, error) {
	conn, connected, err := s.opts.Connector.Locate(ctx, id)
	if volume.IsKind(err, volume.KindNotFound) {
		return false, nil
	}
	if err != nil || !connected {
		return false, err
	}
	located, err := s.opts.Devices.ByPath(conn.Path)
	return err == nil && located.Number() == disk.Number(), err
}
