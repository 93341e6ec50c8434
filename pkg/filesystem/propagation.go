package filesystem

import (
	"errors"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
)

// Propagates tells whether a mount made at path would show in the peers of the
// mount that contains path, as one made by a plugin must show outside of the
// plugin's own mount namespace: it does when that mount is shared
// (mount_namespaces(7)). path need not exist, nor the directories above it.
// What is mounted at path itself already does not count, but what it lies in.
//
// Who the peers are, and whether there are any, cannot be told. The error is
// of kind Internal.
func (s *System) Propagates(path string) (bool, error) {
	dir, st, err := s.containingDir(path)
	if err != nil {
		return false, volume.Errorf(volume.KindInternal, "look for the mount that contains %s: %w", path, err)
	}
	mounts, err := s.readMounts()
	if err != nil {
		return false, err
	}
	if st.mountID != 0 {
		if i := slices.IndexFunc(mounts, func(m Mount) bool { return m.ID == st.mountID }); i >= 0 {
			return mounts[i].IsShared, nil
		}
		return false, volume.Errorf(volume.KindInternal, "the mount that contains %s is not in the mount table", path)
	}
	for { // a kernel that does not tell mounts apart (before 5.8)
		if m, ok := findTopmost(mounts, dir); ok {
			return m.IsShared, nil
		}
		if dir == filepath.Dir(dir) {
			return false, volume.Errorf(volume.KindInternal, "the mount that contains %s is not in the mount table", path)
		}
		dir = filepath.Dir(dir)
	}
}

// containingDir finds the nearest existing directory above path, after symbolic
// links.
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
