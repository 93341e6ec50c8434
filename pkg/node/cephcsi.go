package node

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// This file finds and unstages what ceph-csi's node plugin has staged before this plugin replaced
// it (ceph-csi, internal/rbd/nodeserver.go). ceph-csi mounts a volume below the staging path, at a
// directory or a file that is named after the volume, and writes a file beside it. kubelet removes
// the staging path only when it is empty.

// cephCSIStash is the file that ceph-csi writes.
const cephCSIStash = "image-meta.json"

// stagedPath returns the path at which the volume is mounted: the staging path, or the one at which
// ceph-csi has mounted it, while nothing is mounted at the staging path.
func (s *Server) stagedPath(ctx context.Context, id, path string, lease *operation.Lease) (string, error) {
	staged, ok := cephCSIStaged(id, path)
	if !ok {
		return path, nil
	}
	_, mounted, err := s.inspector.FindMount(ctx, lease, path)
	if err != nil || mounted {
		return path, err
	}
	return staged, nil
}

// unmountCephCSI unmounts what ceph-csi has mounted below the staging path. Errors are those of
// unmountAll.
func (s *Server) unmountCephCSI(ctx context.Context, id, path string, lease *operation.Lease) error {
	staged, ok := cephCSIStaged(id, path)
	if !ok {
		return nil
	}
	return s.unmountAll(ctx, id, staged, lease)
}

// removeCephCSIStaging removes what ceph-csi has made below the staging path of a volume that is
// neither mounted nor connected.
func removeCephCSIStaging(id, path string) error {
	staged, ok := cephCSIStaged(id, path)
	if !ok {
		return nil
	}
	// os.Remove removes no directory with content. The stash goes last: with it, a retry finds the
	// rest.
	for _, name := range []string{staged, filepath.Join(path, cephCSIStash)} {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return volume.Errorf(volume.KindInternal, "cannot remove what ceph-csi has left in the staging path: %w", err).
				WithRemedy("remove it on this node if it is not needed: ls " + path)
		}
	}
	return nil
}

// cephCSIStaged returns the path at which ceph-csi mounts the volume; false: ceph-csi has not
// staged it.
func cephCSIStaged(id, path string) (string, bool) {
	if strings.ContainsRune(id, filepath.Separator) || !filepath.IsLocal(id) {
		return "", false
	}
	return filepath.Join(path, id), fileExists(filepath.Join(path, cephCSIStash))
}
