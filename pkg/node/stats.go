package node

import (
	"context"
	"path/filepath"

	"github.com/growvol/growvol/pkg/operation"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
)

// NodeGetVolumeStats reads what is used and free. Nothing is cached: right
// after an expansion it shows the new size, which autoscalers wait for.
func (s *Server) NodeGetVolumeStats(ctx context.Context, req *csi.NodeGetVolumeStatsRequest) (*csi.NodeGetVolumeStatsResponse, error) {
	id := req.GetVolumeId()
	if err := checkID(id); err != nil {
		return nil, err
	}
	if req.GetVolumePath() == "" {
		return nil, invalidf("volume_path is missing from the request")
	}
	ctx, cancel := s.withAnswerMargin(ctx)
	defer cancel()
	usage, err := s.readStats(ctx, id, filepath.Clean(req.GetVolumePath()))
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
	lost := volume.Errorf(volume.KindNotFound, "the volume is not published at %s", path).WithRemedy("delete the pod, so that the volume is published anew")
	if !connected {
		return nil, lost
	}
	// A filesystem whose device is gone, or that is frozen, may never answer.
	// The lock keeps the readings that hang to one per volume.
	silent := volume.Errorf(volume.KindDeadline, "the filesystem at %s does not answer", path).WithRemedy("check whether its device is gone, or it is frozen")
	unlock, err := s.lockStats(ctx, id)
	if err != nil {
		return nil, silent
	}
	l := operation.NewLease(unlock)
	defer l.Release()
	usage, err := operation.RunDetached(ctx, l, "reading the usage", func() ([]*csi.VolumeUsage, error) { return s.readUsage(path, conn.Path, lost) })
	if err != nil && ctx.Err() != nil {
		return nil, silent
	}
	return usage, err
}

// readUsage reads the usage at a path that must be a mount of the disk, or of a
// mapping on it: whatever else is mounted there is none of this volume's.
func (s *Server) readUsage(path, disk string, lost error) ([]*csi.VolumeUsage, error) {
	m, mounted, err := s.opts.Filesystems.FindMount(path)
	if err != nil {
		return nil, err
	}
	if !mounted {
		return nil, lost
	}
	dev, ours, err := s.deviceOnDisk(m, disk)
	switch {
	case err != nil:
		return nil, err
	case !ours:
		return nil, lost
	case m.IsDeviceNode():
		return s.blockUsage(dev)
	}
	st, err := s.opts.Filesystems.ReadUsage(m)
	if err != nil {
		return nil, err
	}
	return []*csi.VolumeUsage{
		{Unit: csi.VolumeUsage_BYTES, Total: st.Total.Bytes(), Available: st.Available.Bytes(), Used: st.Used.Bytes()},
		{Unit: csi.VolumeUsage_INODES, Total: st.Inodes, Available: st.InodesAvailable, Used: st.InodesUsed},
	}, nil
}

// blockUsage is the size of a published device; what of it is used only its
// user knows.
func (s *Server) blockUsage(dev blockdev.Device) ([]*csi.VolumeUsage, error) {
	size, err := s.opts.Devices.Size(dev)
	if err != nil {
		return nil, err
	}
	return []*csi.VolumeUsage{{Unit: csi.VolumeUsage_BYTES, Total: size.Bytes()}}, nil
}
