package instance

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
)

// deviceUses is what this process sees of what the machine's block devices are used for.
type deviceUses struct {
	mounted map[blockdev.DeviceNumber]bool
	cluster map[blockdev.DeviceNumber]bool // shown as a whole where kubelet has CSI volumes
	swap    map[string]bool                // by device node
	staged  []string                       // ids of volumes
}

// isForeign reports whether a disk with a volume's serial is used by somebody
// other than the cluster, as a data disk is that Terraform has attached and that is
// mounted on the host. Used means: a filesystem on the disk, on a partition of it or
// on a mapping above it is mounted anywhere on the machine, or it is swapped to. An
// unused disk may be one that is about to be staged, so it counts as the cluster's.
// So does a disk whose volume is staged, or that kubelet's directories of CSI volumes
// have a mount of: of the disk itself, or of a dm-crypt mapping right on it. What is
// mounted there of a partition, of a logical volume, or of a directory of the disk's
// filesystem belongs to another CSI driver, whose disk it is.
//
// The disk is not opened: an exclusive open, which would tell as well, could make
// a mount of the volume at the same moment fail.
func (o LimitOptions) isForeign(d blockdev.Device, serial string, u deviceUses) bool {
	if slices.ContainsFunc(u.staged, func(id string) bool { return blockdev.SerialMatches(serial, id) }) {
		return false
	}
	holders, err := o.Disks.Holders(d)
	if err != nil {
		holders = nil
	}
	used := false
	for _, layer := range o.layersAbove(d) {
		number := layer.Number()
		canBeVolume := layer == d || layer.Kind == blockdev.KindCrypt && slices.Contains(holders, layer)
		if canBeVolume && u.cluster[number] {
			return false
		}
		used = used || u.mounted[number] || u.swap[layer.Path] || o.Disks.MountedFilesystem(layer) != ""
	}
	return used
}

// layersAbove returns the disk, its partitions, and all mappings that rest on them. What
// cannot be read is left out.
func (o LimitOptions) layersAbove(d blockdev.Device) []blockdev.Device {
	layers := []blockdev.Device{d}
	for i := 0; i < len(layers); i++ {
		parts, err := o.Disks.Partitions(layers[i])
		if err != nil {
			parts = nil
		}
		holders, err := o.Disks.Holders(layers[i])
		if err != nil {
			holders = nil
		}
		for _, more := range slices.Concat(parts, holders) {
			if !slices.Contains(layers, more) {
				layers = append(layers, more)
			}
		}
	}
	return layers
}

// readUses reads the mount table and the swap areas.
func (o LimitOptions) readUses() (deviceUses, error) {
	u := deviceUses{mounted: map[blockdev.DeviceNumber]bool{}, cluster: map[blockdev.DeviceNumber]bool{}, swap: map[string]bool{}}
	table, err := os.Open(filepath.Join(o.proc, "self", "mountinfo"))
	if err != nil {
		return u, volume.Errorf(volume.KindInternal, "read the mount table: %w", err)
	}
	defer table.Close() //nolint:errcheck // only read from
	mounts, err := mountinfo.GetMountsFromReader(table, nil)
	if err != nil {
		return u, volume.Errorf(volume.KindInternal, "read the mount table: %w", err)
	}
	for _, m := range mounts {
		kubelet := isKubeletVolume(m.Mountpoint)
		filesystem, node := deviceNumbers(m, kubelet)
		for _, number := range slices.Concat(filesystem, node) {
			u.mounted[number] = true
		}
		if kubelet && m.Root == "/" {
			for _, number := range filesystem {
				u.cluster[number] = true
			}
		}
		for _, number := range node {
			u.cluster[number] = true
		}
	}
	swaps, err := os.ReadFile(filepath.Join(o.proc, "swaps"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // a kernel without swapping has none
		return u, volume.Errorf(volume.KindInternal, "read the swap areas: %w", err)
	}
	for line := range strings.Lines(string(swaps)) {
		path, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		path, _, _ = strings.Cut(path, "\t")
		u.swap[path] = true
	}
	if o.Staged != nil {
		u.staged = o.Staged()
	}
	return u, nil
}

// isKubeletVolume reports whether kubelet mounts CSI volumes at such a path: it
// stages them, and publishes raw ones, below plugins/kubernetes.io/csi, and publishes
// the others below pods/<uid>/volumes/kubernetes.io~csi, wherever its own directory is.
func isKubeletVolume(path string) bool {
	return strings.Contains(path, "/plugins/kubernetes.io/csi/") || strings.Contains(path, "/kubernetes.io~csi/")
}

// deviceNumbers returns the devices that a mount shows: that of its filesystem, or the
// source, where the filesystem has an anonymous number (btrfs); and for a volume of
// kubelet the device node that is mounted as a file (a raw volume).
func deviceNumbers(m *mountinfo.Info, kubelet bool) (filesystem, node []blockdev.DeviceNumber) {
	switch {
	case m.Major != 0:
		filesystem = []blockdev.DeviceNumber{{Major: uint32(m.Major), Minor: uint32(m.Minor)}}
	case strings.HasPrefix(m.Source, "/dev/"):
		filesystem = blockNodeNumber(m.Source)
	}
	// No other mount is touched: a network filesystem may hang.
	if kubelet && m.Root != "/" && (m.FSType == "devtmpfs" || m.FSType == "tmpfs") {
		node = blockNodeNumber(m.Mountpoint)
	}
	return filesystem, node
}

// blockNodeNumber returns the number of a block device's node; none, if it is no such node.
func blockNodeNumber(path string) []blockdev.DeviceNumber {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return nil
	}
	rdev := uint64(st.Rdev) //nolint:unconvert // 32 bits wide on some architectures
	return []blockdev.DeviceNumber{{Major: unix.Major(rdev), Minor: unix.Minor(rdev)}}
}
