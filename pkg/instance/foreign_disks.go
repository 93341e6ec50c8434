package instance

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
)

// deviceUses is what the machine's block devices are used for, as far as this process can see. This
// file finds the disks that have a volume's serial but are not volumes of the cluster.
type deviceUses struct {
	mounted map[blockdev.DeviceNumber]bool // anywhere
	cluster map[blockdev.DeviceNumber]bool // mounted as a whole where kubelet has CSI volumes
	swap    map[string]bool                // by device path
	staged  []string                       // ids of the volumes that are staged on this node
}

// isForeign reports whether a disk with a volume's serial is used by something other than the
// cluster, such as a data disk that Terraform has attached and that the host has mounted. A disk is
// used if a filesystem on the disk, on a partition of it or on a mapping above it is mounted
// anywhere on the machine, or if one of these is swap space. An unused disk might be one that is
// about to be staged, so it counts as the cluster's.
//
// A disk whose volume is staged is the cluster's. So is a disk that kubelet's directories of CSI
// volumes show as a whole: the disk itself, or a dm-crypt mapping directly on it. A partition, a
// logical volume or a directory of the disk's filesystem that is mounted there belongs to another
// CSI driver, and so does the disk.
//
// isForeign does not open the disk: an exclusive open would show a use too, but it could make a
// mount of the volume at the same moment fail.
func (o LimitOptions) isForeign(d blockdev.Device, serial string, uses deviceUses) bool {
	if slices.ContainsFunc(uses.staged, func(id string) bool { return blockdev.SerialMatches(serial, id) }) {
		return false
	}
	holders, _ := o.Disks.Holders(d) // none if they cannot be read
	isUsed := false
	for _, layer := range o.layersAbove(d) {
		number := layer.Number()
		canBeVolume := layer == d || layer.Kind == blockdev.KindCrypt && slices.Contains(holders, layer)
		if canBeVolume && uses.cluster[number] {
			return false
		}
		isUsed = isUsed || uses.mounted[number] || uses.swap[layer.Path] || o.Disks.MountedFilesystem(layer) != ""
	}
	return isUsed
}

// layersAbove returns the disk, its partitions, and all mappings that rest on them. It leaves out
// what cannot be read.
func (o LimitOptions) layersAbove(d blockdev.Device) []blockdev.Device {
	layers := []blockdev.Device{d}
	for i := 0; i < len(layers); i++ {
		partitions, _ := o.Disks.Partitions(layers[i])
		holders, _ := o.Disks.Holders(layers[i])
		for _, more := range slices.Concat(partitions, holders) {
			if !slices.Contains(layers, more) {
				layers = append(layers, more)
			}
		}
	}
	return layers
}

// readUses reads the mount table and the swap areas.
func (o LimitOptions) readUses() (deviceUses, error) {
	uses := deviceUses{mounted: map[blockdev.DeviceNumber]bool{}, cluster: map[blockdev.DeviceNumber]bool{}}
	table, err := os.Open(filepath.Join(o.proc, "self", "mountinfo"))
	if err != nil {
		return uses, volume.Errorf(volume.KindInternal, "cannot read the mount table: %w", err)
	}
	defer table.Close() //nolint:errcheck // only read from
	mounts, err := mountinfo.GetMountsFromReader(table, nil)
	if err != nil {
		return uses, volume.Errorf(volume.KindInternal, "cannot read the mount table: %w", err)
	}
	for _, m := range mounts {
		isKubelet := isKubeletVolume(m.Mountpoint)
		if number, err := filesystemNumber(m); err == nil {
			uses.mounted[number] = true
			uses.cluster[number] = uses.cluster[number] || isKubelet && m.Root == "/"
		}
		// A device node that is mounted as a file is a raw volume. The node of any other mount is not
		// read: a network filesystem may hang.
		if isKubelet && m.Root != "/" && (m.FSType == "devtmpfs" || m.FSType == "tmpfs") {
			if number, err := blockdev.NumberOf(m.Mountpoint); err == nil {
				uses.mounted[number], uses.cluster[number] = true, true
			}
		}
	}
	if o.Staged != nil {
		uses.staged = o.Staged()
	}
	uses.swap, err = o.readSwapAreas()
	return uses, err
}

// readSwapAreas returns the paths of the swap areas.
func (o LimitOptions) readSwapAreas() (map[string]bool, error) {
	swaps, err := os.ReadFile(filepath.Join(o.proc, "swaps"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // a kernel without swapping has no such file
		return nil, volume.Errorf(volume.KindInternal, "cannot read the swap areas: %w", err)
	}
	paths := map[string]bool{}
	for line := range strings.Lines(string(swaps)) {
		if fields := strings.Fields(line); len(fields) > 0 {
			paths[fields[0]] = true
		}
	}
	return paths, nil
}

// isKubeletVolume reports whether kubelet mounts CSI volumes at such a path. It stages volumes and
// publishes raw ones below plugins/kubernetes.io/csi, and publishes the others below
// pods/<uid>/volumes/kubernetes.io~csi; its own directory may be anywhere.
func isKubeletVolume(path string) bool {
	return strings.Contains(path, "/plugins/kubernetes.io/csi/") || strings.Contains(path, "/kubernetes.io~csi/")
}

// filesystemNumber returns the device number of a mounted filesystem. Where that is anonymous
// and the source is a device (btrfs), it returns the number of the source.
func filesystemNumber(m *mountinfo.Info) (blockdev.DeviceNumber, error) {
	if m.Major == 0 && strings.HasPrefix(m.Source, "/dev/") {
		return blockdev.NumberOf(m.Source)
	}
	return blockdev.DeviceNumber{Major: uint32(m.Major), Minor: uint32(m.Minor)}, nil
}
