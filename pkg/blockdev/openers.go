package blockdev

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// This file finds the processes, mounts in other mount namespaces and loop devices that use a
// device. The kernel lists them nowhere: they are searched for in /proc and sysfs, when a
// device cannot be removed.

// maxOpeners bounds how many processes and mounts an error names.
const maxOpeners = 5

// process is one process of /proc.
type process struct {
	dir  string // "/proc/7"
	pid  int
	name string
}

// processes returns the processes that this process can see.
func (s *System) processes() (all []process) {
	entries, err := os.ReadDir(s.proc)
	if err != nil {
		return nil
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		p := process{dir: filepath.Join(s.proc, e.Name()), pid: pid}
		p.name, _ = s.readAttribute(filepath.Join(p.dir, "comm")) // empty: the process has ended
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b process) int { return cmp.Compare(a.pid, b.pid) })
	return all
}

// openers describes the processes that have the device open.
func (s *System) openers(d Device) (descriptions []string) {
	for _, p := range s.processes() {
		fds, err := os.ReadDir(filepath.Join(p.dir, "fd"))
		if err != nil {
			continue // the process has ended
		}
		isOpener := slices.ContainsFunc(fds, func(e os.DirEntry) bool {
			return isOpenDevice(filepath.Join(p.dir, "fd", e.Name()), d)
		})
		if isOpener {
			descriptions = append(descriptions, fmt.Sprintf("process %d (%s)", p.pid, p.name))
		}
		if len(descriptions) == maxOpeners {
			return append(descriptions, "possibly others")
		}
	}
	return descriptions
}

// isOpenDevice reports whether the link of /proc/PID/fd leads to the device. It does not wait
// for a server on which an open file may be.
func isOpenDevice(link string, d Device) bool {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, link, unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE, &st)
	return err == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK && st.Rdev_major == d.Major && st.Rdev_minor == d.Minor
}

// foreignMounts describes the mounts of a device in other mount namespaces, by one process of
// each.
func (s *System) foreignMounts(d Device) (descriptions []string) {
	seen := map[string]bool{}
	for _, p := range s.processes() {
		namespace, err := os.Readlink(filepath.Join(p.dir, "ns", "mnt"))
		if err != nil || seen[namespace] {
			continue
		}
		seen[namespace] = true
		for _, path := range s.mountPoints(filepath.Join(p.dir, "mountinfo"), d) {
			descriptions = append(descriptions,
				fmt.Sprintf("mounted at %s in the mount namespace of process %d (%s)", path, p.pid, p.name))
		}
		if len(descriptions) >= maxOpeners {
			break
		}
	}
	return descriptions
}

// loopDevices returns the nodes of the loop devices on the device. The kernel shows no other
// connection between the two than the path.
func (s *System) loopDevices(d Device) (paths []string) {
	for _, file := range globAll(filepath.Join(s.sysfs, "block", "loop*", "loop", "backing_file")) {
		if backing, err := s.readAttribute(file); err == nil && backing == d.Path {
			paths = append(paths, filepath.Join(s.dev, filepath.Base(filepath.Dir(filepath.Dir(file)))))
		}
	}
	return paths
}
