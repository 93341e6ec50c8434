package node

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/volume"
)

// NodeUnstageVolume unmounts the staging path and disconnects the volume.
func (s *Server) NodeUnstageVolume(ctx context.Context, req *csi.NodeUnstageVolumeRequest) (*csi.NodeUnstageVolumeResponse, error) {
	id, path := req.GetVolumeId(), req.GetStagingTargetPath()
	if err := errors.Join(requireID(id), requirePath("staging_target_path", path)); err != nil {
		return nil, err
	}
	ctx, cancel := s.withMargin(ctx)
	defer cancel()
	unlock, err := s.lock(ctx, id, publishKey(id))
	if err != nil {
		return nil, volume.Wrap(err, "unstage", id)
	}
	l := volume.NewLease(unlock)
	defer l.Release()
	if err := s.unstage(ctx, id, filepath.Clean(path), l); err != nil {
		return nil, volume.Wrap(err, "unstage", id)
	}
	return &csi.NodeUnstageVolumeResponse{}, nil
}

func (s *Server) unstage(ctx context.Context, id, path string, l *volume.Lease) error {
	if err := s.unmount(ctx, id, path, l); err != nil {
		return err
	}
	conn, connected, err := s.opts.Connector.Locate(ctx, id)
	switch {
	case volume.IsKind(err, volume.NotFound):
	case err != nil:
		return err
	case connected:
		if err := s.unused(ctx, id, conn.Path); err != nil {
			return err
		}
	}
	return s.opts.Connector.Disconnect(ctx, id)
}

// unused refuses to disconnect a device that is still mounted or published
// somewhere: the kernel lets a loop device or a disk go from under a device
// node that a pod has, and the next volume may get the same number.
func (s *Server) unused(ctx context.Context, id, device string) error {
	mounts, err := s.opts.Filesystems.MountsOf(device)
	if err != nil {
		return err
	}
	// The node of a disk that has gone is of the volume that had the disk.
	mounts = slices.DeleteFunc(mounts, isStaleNode)
	if len(mounts) > 0 {
		return volume.Errorf(volume.Precondition, "the volume is still in use at %s", mounts[0].Mountpoint).WithRemedy("unpublish it there first")
	}
	if _, err := os.Lstat(s.marker(id)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	sig, err := s.opts.Filesystems.Probe(ctx, device)
	switch {
	case err != nil:
		s.log.WarnContext(ctx, "a volume that cannot be read is disconnected, and the marker of its format kept", "volume", id, "device", device, "error", err)
	case sig.State == filesystem.Blank, sig.State == filesystem.Formatted && sig.Complete:
		// Only a format that was cut short has use for its marker.
		return s.forgetFormat(id)
	}
	return nil
}

// unmount takes away what is mounted at a path of this volume.
func (s *Server) unmount(ctx context.Context, id, path string, l *volume.Lease) error {
	if err := s.ownMount(ctx, id, path); err != nil {
		return err
	}
	return unhurried(ctx, l, "unmounting "+path, func(ctx context.Context) error { return s.opts.Filesystems.Unmount(ctx, path) })
}

// ownMount refuses a path at which another volume, or something that is no
// volume, is mounted: unmounting it would take that from its user. Nothing
// mounted is fine; so is a mount whose device is gone, or whose volume no
// backend knows any more: it only stands in the way.
func (s *Server) ownMount(ctx context.Context, id, path string) error {
	if info, err := os.Lstat(path); err == nil && info.Mode()&fs.ModeSymlink != 0 {
		return volume.Errorf(volume.Precondition, "%s is a symbolic link, not a mount point; it is left alone", path)
	}
	m, ok, err := s.opts.Filesystems.FindMount(path)
	if err != nil || !ok || isStaleNode(m) {
		return err
	}
	foreign := volume.Errorf(volume.Precondition, "%s (%s) is mounted at %s, not this volume; it is left alone", m.Source, m.FSType, path).
		WithRemedy("find out who mounted it there, and unmount it")
	dev, err := s.deviceOfMount(m)
	if err != nil {
		if m.Device.Major == 0 && !isNodeBind(m) && m.FSType != string(filesystem.Btrfs) {
			return foreign
		}
		return nil // the device is gone
	}
	if _, err := s.diskOf(ctx, id, dev); volume.IsKind(err, volume.Precondition) {
		return foreign
	}
	return nil
}
