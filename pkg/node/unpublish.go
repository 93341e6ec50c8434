package node

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/volume"
)

// NodeUnpublishVolume unmounts the target path and removes it. It never removes content: what is
// not an empty mount point stays and is an error.
func (s *Server) NodeUnpublishVolume(
	ctx context.Context, req *csi.NodeUnpublishVolumeRequest,
) (*csi.NodeUnpublishVolumeResponse, error) {
	id, target := req.GetVolumeId(), req.GetTargetPath()
	if err := cmp.Or(checkID(id), checkPath("target_path", target)); err != nil {
		return nil, err
	}
	if err := s.unpublish(ctx, id, filepath.Clean(target)); err != nil {
		return nil, volume.Wrap(err, "unpublish", id)
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

func (s *Server) unpublish(ctx context.Context, id, target string) error {
	lease, err := s.lockPublish(ctx, id)
	if err != nil {
		return err
	}
	defer lease.Release()
	if err := s.unmountAll(ctx, id, target, lease); err != nil {
		return err
	}
	info, err := os.Lstat(target)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return volume.Errorf(volume.KindInternal, "cannot read the target path: %w", err)
	}
	if !info.IsDir() && (!info.Mode().IsRegular() || info.Size() > 0) {
		return volume.Errorf(volume.KindPrecondition,
			"the target path %s is a %s, not a mount point; it is left alone", target, describeFile(info))
	}
	// Remove, unlike RemoveAll, removes no data.
	if err := os.Remove(target); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return volume.Errorf(volume.KindInternal, "the target path is unmounted, but it cannot be removed: %w", err)
	}
	return nil
}
