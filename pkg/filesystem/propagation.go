package filesystem

import (
	"errors"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
)

// Propagates reports whether a mount made at path would appear in the peers of the mount
// that contains path: it does when that mount is shared (mount_namespaces(7)). The mounts of
// the node plugin must, to be visible outside of the plugin's own mount namespace. path and
// the directories above it need not exist. What is mounted at path itself does not count.
//
// It reports true also for a shared mount that has no peers. The error is of kind Internal.
func (s *System) Propagates(path string) (bool, error) {
	dir, st, err := s.containingDir(path)
	if err != nil {
		return false, volume.Errorf(volume.KindInternal, "cannot find the mount that contains %s: %w", path, err)
	}
	mounts, err := s.readMounts()
	if err != nil {
		return false, err
	}
	for { // kernels before 5.8 do not report mount ids
		if m, ok := findMount(mounts, st, dir); ok {
			return m.IsShared, nil
		}
		if st.mountID != 0 || dir == filepath.Dir(dir) {
			return false, volume.Errorf(volume.KindInternal, "the mount that contains %s is not in the mount table", path)
		}
		dir = filepath.Dir(dir)
	}
}

// containingDir returns the nearest existing directory above path, after symbolic links.
func (s *System) containingDir(path string) (dir string, st mountStat, err error) {
	dir, err = filepath.Abs(path)
	if err != nil {
		return dir, st, err
	}
	if resolved, err := filepath.EvalSymlinks(dir); err == nil {
		dir = resolved
	}
	for {
		if dir == filepath.Dir(dir) {
			st, err = s.kernel.statMount(dir)
			return dir, st, err
		}
		dir = filepath.Dir(dir)
		resolved, err := filepath.EvalSymlinks(dir)
		if err == nil {
			st, err = s.kernel.statMount(resolved)
		}
		if err == nil || !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR) {
			return resolved, st, err
		}
	}
}
