package node

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/growvol/growvol/pkg/operation"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/volume"
)

// NodeUnstageVolume unmounts the staging path, closes the mapping of an
// encrypted volume and disconnects the volume.
func (s *Server) NodeUnstageVolume(ctx context.Context, req *csi.NodeUnstageVolumeRequest) (*csi.NodeUnstageVolumeResponse, error) {
	id, path := req.GetVolumeId(), req.GetStagingTargetPath()
	if err := errors.Join(checkID(id), checkPath("staging_target_path", path)); err != nil {
		return nil, err
	}
	ctx, cancel := s.withAnswerMargin(ctx)
	defer cancel()
	unlock, err := s.lockBoth(ctx, id)
	if err != nil {
		return nil, volume.Wrap(err, "unstage", id)
	}
	l := s.lease(id, unlock)
	defer l.Release()
	if err := s.unstage(ctx, id, filepath.Clean(path), l); err != nil {
		return nil, volume.Wrap(err, "unstage", id)
	}
	return &csi.NodeUnstageVolumeResponse{}, nil
}

func (s *Server) unstage(ctx context.Context, id, path string, l *operation.Lease) error {
	if err := s.unmountAll(ctx, id, path, l); err != nil {
		return err
	}
	conn, connected, err := s.opts.Connector.Locate(ctx, id)
	switch {
	case volume.IsKind(err, volume.KindNotFound):
	case err != nil:
		return err
	case connected:
		if err := s.checkUnused(ctx, id, conn.Path); err != nil {
			return err
		}
	}
	plain, err := s.hasNoMapping(id, conn, connected)
	if err != nil {
		return err
	}
	if !plain {
		if err := s.closeMapping(ctx, id, conn.Path, l); err != nil {
			return err
		}
	}
	if err := s.opts.Connector.Disconnect(ctx, id); err != nil {
		return err
	}
	s.firstPublishTimes.forget(id)
	s.growthFailures.forget(id)
	s.missedSizes.forget(id)
	return s.removeRecord(id)
}

// hasNoMapping reports whether the volume certainly has no mapping: nothing rests on
// its disk, and no record says that it is encrypted. The unstaging of plain
// volumes must not depend on device mapper. A volume that is not connected may
// have lost its disk, and its record, below a mapping that is still there.
func (s *Server) hasNoMapping(id string, conn volume.Connection, connected bool) (bool, error) {
	if !connected {
		return false, nil
	}
	r, err := s.readRecord(id)
	if err != nil || r.Encrypted {
		return false, nil //nolint:nilerr // a record that cannot be read proves nothing
	}
	disk, err := s.opts.Devices.ByPath(conn.Path)
	if err != nil {
		return false, err
	}
	holders, err := s.opts.Devices.Holders(disk)
	return err == nil && len(holders) == 0, err
}

// checkUnused refuses to disconnect a disk that is still mounted or published
// somewhere, or whose mapping is: the kernel lets a loop device or a disk go
// from under a device node that a pod has, and the next volume may get the same
// number.
func (s *Server) checkUnused(ctx context.Context, id, device string) error {
	dev, err := s.opts.Devices.ByPath(device)
	if err != nil {
		return err
	}
	if err := s.checkUnpublished(ctx, dev); err != nil {
		return err
	}
	m, mapped, err := s.findMapping(ctx, id, dev)
	if err != nil {
		return err
	}
	if mapped {
		dev = m.Device // what the volume holds is read there
		if err := s.checkUnpublished(ctx, dev); err != nil {
			return err
		}
	}
	if !fileExists(s.formatMarker(id)) && !fileExists(s.encryptionMarker(id)) {
		return nil
	}
	sig, err := s.probeDevice(ctx, id, dev)
	switch {
	case err != nil:
		s.log.WarnContext(ctx, "a volume that cannot be read is disconnected, and the marker of its format kept", "volume", id, "device", device, "error", err)
	case sig.State == filesystem.StateBlank, sig.State == filesystem.StateFormatted && sig.IsComplete:
		// Only a format that was cut short has use for its marker.
		return s.removeMarkers(id)
	}
	return nil
}

func fileExists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// checkUnpublished refuses a device that is mounted or published somewhere.
func (s *Server) checkUnpublished(ctx context.Context, dev blockdev.Device) error {
	mounts, err := s.mountsOf(ctx, dev)
	if err != nil || len(mounts) == 0 {
		return err
	}
	return volume.Errorf(volume.KindPrecondition, "the volume is still in use at %s", mounts[0].MountPoint).WithRemedy("unpublish it there first")
}

// probeDevice reads what the volume holds.
func (s *Server) probeDevice(ctx context.Context, id string, dev blockdev.Device) (filesystem.Signature, error) {
	l := operation.NewLease(func() {})
	defer l.Release()
	vol, err := s.openVerified(ctx, id, dev, l)
	if err != nil {
		return filesystem.Signature{}, err
	}
	return s.opts.Filesystems.Probe(ctx, vol)
}

// unmountAll takes away, one by one, what is mounted at a path, each after it is
// proved to be of this volume. What is not stays, with an error that names it,
// also when it lay below a mount of this volume.
func (s *Server) unmountAll(ctx context.Context, id, path string, l *operation.Lease) error {
	if info, err := os.Lstat(path); err == nil && info.Mode()&fs.ModeSymlink != 0 {
		return volume.Errorf(volume.KindPrecondition, "%s is a symbolic link, not a mount point; it is left alone", path)
	}
	for {
		m, mounted, err := s.findMount(ctx, l, path)
		if err != nil || !mounted {
			return err
		}
		if err := s.checkOwnMount(ctx, id, m); err != nil {
			return err
		}
		err = runStep(ctx, l, "unmounting "+path, func(ctx context.Context) error { return s.opts.Filesystems.Unmount(ctx, m) })
		if err != nil {
			return err
		}
	}
}

// checkOwnMount refuses a mount that is not proved to be of this volume:
// unmounting another's would take that from its user. A mount is proved when
// the disk below it is verified to be the volume, or is provably gone: then
// nobody has any use for it, and it only stands in the way. A reading that
// fails proves nothing.
func (s *Server) checkOwnMount(ctx context.Context, id string, m filesystem.Mount) error {
	if m.IsStaleDeviceNode() {
		return nil
	}
	err := error(volume.Errorf(volume.KindPrecondition, "it rests on no block device"))
	if hasBlockDevice(m) {
		var dev blockdev.Device
		if dev, err = s.deviceOfMount(m); err == nil {
			_, err = s.verifiedLayers(ctx, id, dev)
		}
	}
	const remedy = "find out who mounted it there, and unmount it"
	switch {
	case err == nil, errors.Is(err, volume.ErrGone):
		return nil
	case volume.IsKind(err, volume.KindPrecondition):
		return volume.Errorf(volume.KindPrecondition, "%s (%s) is mounted at %s, not this volume; it is left alone: %w", m.Source, m.FSType, m.MountPoint, err).
			WithRemedy(remedy)
	case volume.IsKind(err, volume.KindNotFound):
		return volume.Errorf(volume.KindPrecondition, "%s (%s) is mounted at %s, and no volume of this id is known; it is left alone: %w", m.Source, m.FSType, m.MountPoint, err).
			WithRemedy(remedy)
	}
	return volume.Errorf(volume.KindOf(err), "%s (%s) at %s is left mounted, because it could not be proved to be this volume: %w", m.Source, m.FSType, m.MountPoint, err).
		WithRemedy("Kubernetes retries this automatically; if it lasts, find out why the device of the mount cannot be identified")
}
