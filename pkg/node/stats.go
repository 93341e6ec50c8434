package node

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/volume"
)

// NodeGetVolumeStats reads what is used and free. Nothing is cached: right
// after an expansion it shows the new size, which autoscalers wait for.
func (s *Server) NodeGetVolumeStats(ctx context.Context, req *csi.NodeGetVolumeStatsRequest) (*csi.NodeGetVolumeStatsResponse, error) {
	id := req.GetVolumeId()
	if err := requireID(id); err != nil {
		return nil, err
	}
	if req.GetVolumePath() == "" {
		return nil, invalid("volume_path is missing from the request")
	}
	ctx, cancel := s.withMargin(ctx)
	defer cancel()
	usage, err := s.stats(ctx, id, filepath.Clean(req.GetVolumePath()))
	if err != nil {
		return nil, volume.Wrap(err, "read usage of", id)
	}
	return &csi.NodeGetVolumeStatsResponse{Usage: usage}, nil
}

func (s *Server) stats(ctx context.Context, id, path string) ([]*csi.VolumeUsage, error) {
	conn, connected, err := s.opts.Connector.Locate(ctx, id)
	if err != nil {
		return nil, err
	}
	lost := volume.Errorf(volume.NotFound, "the volume is not published at %s", path).WithRemedy("delete the pod, so that the volume is published anew")
	if !connected {
		return nil, lost
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, lost
	}
	if err != nil {
		return nil, volume.Errorf(volume.Internal, "the path %s cannot be examined: %w", path, err)
	}
	m, mounted, err := s.opts.Filesystems.FindMount(path)
	if err != nil {
		return nil, err
	}
	if !mounted {
		return nil, lost
	}
	if info.Mode()&fs.ModeDevice != 0 {
		return s.blockStats(m, conn.Path, lost)
	}
	// statfs of a filesystem whose device is gone, or that is frozen, may
	// never return.
	st, err := volume.Outlive(ctx, volume.NewLease(nil), "reading the usage of the filesystem", func() (filesystem.Usage, error) { return s.opts.Filesystems.Stats(path) })
	if err != nil && ctx.Err() != nil {
		return nil, volume.Errorf(volume.Deadline, "the filesystem at %s does not answer: %w", path, err).WithRemedy("check whether its device is gone, or it is frozen")
	}
	if err != nil {
		return nil, err
	}
	return []*csi.VolumeUsage{
		{Unit: csi.VolumeUsage_BYTES, Total: st.Total.Bytes(), Available: st.Available.Bytes(), Used: st.Used.Bytes()},
		{Unit: csi.VolumeUsage_INODES, Total: st.Inodes, Available: st.InodesAvailable, Used: st.InodesUsed},
	}, nil
}

// blockStats is the size of a published device; what of it is used only its
// user knows.
func (s *Server) blockStats(m filesystem.Mount, device string, lost error) ([]*csi.VolumeUsage, error) {
	dev, err := s.opts.Devices.ByPath(device)
	if err != nil {
		return nil, err
	}
	same, err := s.isOn(m, dev)
	if err != nil {
		return nil, err
	}
	if !same {
		return nil, lost
	}
	size, err := s.opts.Devices.Size(dev)
	if err != nil {
		return nil, err
	}
	return []*csi.VolumeUsage{{Unit: csi.VolumeUsage_BYTES, Total: size.Bytes()}}, nil
}
