package csiclient

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Leftovers returns what must be gone once every volume is deleted: volumes,
// snapshots, records of unfinished formats, mounts, attached loop devices,
// device-mapper devices and their device nodes. An empty result is the normal one.
func (d *Deployment) Leftovers() ([]string, error) {
	var left []string
	for _, pattern := range []string{"volumes/volumes/*", "volumes/snapshots/*", "volumes/pending/*", "state/*"} {
		found, err := filepath.Glob(filepath.Join(d.dir, pattern))
		if err != nil {
			return nil, err
		}
		left = append(left, found...)
	}
	loops, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, err
	}
	mappings, err := listMappings()
	if err != nil {
		return nil, err
	}
	mounts, err := mountsBelow(d.dir)
	return slices.Concat(left, loops, mappings, mounts), err
}

// listMappings returns the device-mapper devices of this machine and the nodes in
// /dev/mapper.
func listMappings() ([]string, error) {
	devices, err := filepath.Glob("/sys/block/dm-*")
	if err != nil {
		return nil, err
	}
	nodes, err := filepath.Glob("/dev/mapper/*")
	if err != nil {
		return nil, err
	}
	nodes = slices.DeleteFunc(nodes, func(path string) bool { return path == "/dev/mapper/control" })
	return append(devices, nodes...), nil
}

// mountsBelow returns the lines of /proc/self/mountinfo whose mount point (the
// fifth field) is below dir.
func mountsBelow(dir string) ([]string, error) {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var mounts []string
	for line := range strings.Lines(string(table)) {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			mounts = append(mounts, strings.TrimSpace(line))
		}
	}
	return mounts, nil
}
