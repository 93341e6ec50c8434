package node

import (
	"cmp"
	"context"
	"path/filepath"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// NodeGetVolumeStats reads how many bytes and inodes of a published volume are used and free. It
// caches nothing: autoscalers wait for the new size right after an expansion.
func (s *Server) NodeGetVolumeStats(
	ctx context.Context, req *csi.NodeGetVolumeStatsRequest,
) (*csi.NodeGetVolumeStatsResponse, error) {
	id, path := req.GetVolumeId(), req.GetVolumePath()
	if err := cmp.Or(checkID(id), checkRequired("volume_path", path)); err != nil {
		return nil, err
	}
	usage, err := s.readStats(ctx, id, filepath.Clean(path))
	if err != nil {
		return nil, volume.Wrap(err, "read usage of", id)
	}
	return &csi.NodeGetVolumeStatsResponse{Usage: usage}, nil
}

func (s *Server) readStats(ctx context.Context, id, path string) ([]*csi.VolumeUsage, error) {
	conn, connected, err := s.opts.Connector.Locate(ctx, id)
	if err != nil {
		return nil, err
	}
	notPublished := volume.Errorf(volume.KindNotFound, "the volume is not published at %s", path).
		WithRemedy("delete the pod: the volume is published again when the pod starts")
	if !connected {
		return nil, notPublished
	}
	// A filesystem whose device is gone, or that is frozen, might never answer.
	noAnswer := volume.Errorf(volume.KindDeadline, "the filesystem at %s does not answer", path).
		WithRemedy("check on this node whether its device is gone (lsblk), or it is frozen (journalctl --dmesg)")
	lease, err := s.lockReading(ctx, id)
	if err != nil {
		return nil, noAnswer
	}
	defer lease.Release()
	usage, err := operation.RunDetached(ctx, lease, "reading the usage", func() ([]*csi.VolumeUsage, error) {
		return s.readUsage(path, conn.Path, notPublished)
	})
	if err != nil && ctx.Err() != nil {
		return nil, noAnswer
	}
	return usage, err
}

// readUsage reads the usage at a path that must be a mount of the disk, or of a mapping on the
// disk; otherwise it returns notPublished.
func (s *Server) readUsage(path, diskPath string, notPublished error) ([]*csi.VolumeUsage, error) {
	m, mounted, err := s.opts.Filesystems.FindMount(path)
	if err != nil {
		return nil, err
	}
	if !mounted {
		return nil, notPublished
	}
	dev, isVolume, err := s.inspector.DeviceOnDisk(m, diskPath)
	switch {
	case err != nil:
		return nil, err
	case !isVolume:
		return nil, notPublished
	case m.IsDeviceNode(): // what a pod uses of a raw device is unknown
		size, err := s.opts.Devices.Size(dev)
		return []*csi.VolumeUsage{{Unit: csi.VolumeUsage_BYTES, Total: size.Bytes()}}, err
	}
	st, err := s.opts.Filesystems.ReadUsage(m)
	return []*csi.VolumeUsage{
		{Unit: csi.VolumeUsage_BYTES, Total: st.Total.Bytes(), Available: st.Available.Bytes(), Used: st.Used.Bytes()},
		{Unit: csi.VolumeUsage_INODES, Total: st.Inodes, Available: st.InodesAvailable, Used: st.InodesUsed},
	}, err
}
