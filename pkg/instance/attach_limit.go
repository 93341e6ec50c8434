package instance

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// maxDisks is how many disks a server can have when nothing else is known: the default that
// cinder-csi-plugin documents, and the number of targets of a virtio-scsi controller.
const maxDisks = 256

// Limit says how many volumes can be attached to this machine, and why.
type Limit struct {
	Volumes int64
	Reason  string // for the log
}

// LimitOptions are what AttachLimit reads and subtracts.
type LimitOptions struct {
	Disks Disks // required
	// OwnPaths are paths on the node's own disks, such as the state directory. Their disks do not
	// count as volumes, even if they are volumes.
	OwnPaths []string
	// Staged returns the ids of the volumes that are staged on this node. With nil none are known.
	Staged func() []string
	// Reserved is how many of the volumes that can be attached are left to others.
	Reserved int64

	sysfs string // "/sys" when empty
	proc  string // "/proc" when empty
}

// AttachLimit returns how many volumes can be attached to this machine at a time, including
// those that are attached now.
//
// A virtio-blk disk takes a PCI slot of its own. The kernel lists the slots into which the
// hypervisor can plug something: on the machine type pc the slots of the bus, on q35 the root
// ports. The limit is the number of free slots and of slots that have volumes. A network interface
// that is plugged in later takes a slot too.
//
// A virtio-scsi disk takes one of the 256 targets of the controller: the limit is 256 less the
// disks that are not volumes. That is also the limit for any other bus, because nothing better is
// known here: what Nova itself allows ([compute]max_disk_devices_to_attach) shows only when Nova
// refuses.
//
// A disk that could be a volume does not count as one if it is used by something other than the
// cluster; see isForeign.
//
// When a disk does not answer, the disks cannot be counted. The limit is then the number of all
// slots if any disk is virtio-blk: kubelet asks only once, and with a limit that is too high
// Kubernetes attaches volumes that never appear on this machine.
//
// Reserved is subtracted at the end. The limit is at least one, because zero means "no limit" in
// CSI.
func AttachLimit(ctx context.Context, o LimitOptions) (Limit, error) {
	if o.sysfs == "" {
		o.sysfs = "/sys"
	}
	if o.proc == "" {
		o.proc = "/proc"
	}
	readCtx, cancel := context.WithTimeout(ctx, disksTimeout)
	defer cancel()
	uncounted := make(chan Limit, 1)
	limit, err := operation.AwaitCall(readCtx, func() (Limit, error) { return o.computeLimit(uncounted) })
	if readCtx.Err() != nil && ctx.Err() == nil {
		limit, err = Limit{maxDisks, ""}, nil
		select {
		case limit = <-uncounted:
		default:
		}
		limit.Reason += "a disk of this machine does not answer, so the disks cannot be counted"
	}
	if o.Reserved > 0 {
		limit.Volumes -= o.Reserved
		limit.Reason += fmt.Sprintf("; %d are reserved for others", o.Reserved)
	}
	limit.Volumes = max(limit.Volumes, 1)
	return limit, volume.Wrap(err, "count the disks of this machine", "")
}

// computeLimit counts the disks. It first sends uncounted the limit that needs no answer of a disk.
func (o LimitOptions) computeLimit(uncounted chan<- Limit) (Limit, error) {
	disks, err := o.Disks.Disks()
	if err != nil {
		return Limit{}, err
	}
	freeSlots, slots := o.countSlots()
	uncounted <- uncountedLimit(disks, slots)
	counts, err := o.countDisks(disks)
	if err != nil {
		return Limit{}, err
	}
	foreign := ""
	if len(counts.foreign) > 0 {
		foreign = fmt.Sprintf("; used, but not by this cluster: %s", strings.Join(counts.foreign, ", "))
	}
	if counts.usesVirtioBlk() && slots > 0 {
		n := min(freeSlots+counts.virtioVolumes, maxDisks)
		return Limit{n, fmt.Sprintf("virtio-blk: %d of %d PCI slots for hot-plugging are free, and volumes use %d%s",
			freeSlots, slots, counts.virtioVolumes, foreign)}, nil
	}
	return Limit{maxDisks - counts.others, fmt.Sprintf("%d disks, less %d that are not volumes of this cluster%s",
		maxDisks, counts.others, foreign)}, nil
}

// uncountedLimit is the limit of a machine with a disk that does not answer.
func uncountedLimit(disks []blockdev.Device, slots int64) Limit {
	if slots > 0 && slices.ContainsFunc(disks, isVirtioBlk) {
		return Limit{min(slots, maxDisks), fmt.Sprintf("virtio-blk: %d PCI slots for hot-plugging, free or not; ", slots)}
	}
	return Limit{Volumes: maxDisks}
}

func isVirtioBlk(d blockdev.Device) bool { return d.Kind == blockdev.KindVirtioBlk }

// diskCounts is how many disks of each sort the machine has.
type diskCounts struct {
	virtioVolumes int64    // volumes of the cluster on virtio-blk
	others        int64    // disks that are not volumes of the cluster
	foreign       []string // device paths of those others that have a volume's serial

	volumes []blockdev.Device // disks with a volume's serial, also foreign ones; without own
	own     []blockdev.Device // disks of the node's own paths
	all     []blockdev.Device
}

// usesVirtioBlk reports whether volumes are plugged in as virtio-blk. Nova uses one bus for all
// volumes and for the disk from which the server boots (image property hw_disk_bus); a config drive
// may be on another bus.
func (c diskCounts) usesVirtioBlk() bool {
	for _, disks := range [][]blockdev.Device{c.volumes, c.own} {
		if len(disks) > 0 {
			return slices.ContainsFunc(disks, isVirtioBlk)
		}
	}
	return slices.ContainsFunc(c.all, isVirtioBlk)
}

func (o LimitOptions) countDisks(disks []blockdev.Device) (diskCounts, error) {
	var c diskCounts
	own := o.ownDisks()
	uses, err := o.readUses()
	if err != nil {
		return c, err
	}
	for _, d := range disks {
		if !d.Kind.IsPluggable() {
			continue
		}
		c.all = append(c.all, d)
		serial, err := o.Disks.Serial(d)
		switch {
		case own[d]:
			c.others++
			c.own = append(c.own, d)
			continue
		case err != nil, !isVolumeSerial(serial):
			c.others++
			continue
		}
		c.volumes = append(c.volumes, d)
		switch {
		case o.isForeign(d, serial, uses):
			c.others++
			c.foreign = append(c.foreign, d.Path)
		case isVirtioBlk(d):
			c.virtioVolumes++
		}
	}
	return c, nil
}

// countSlots counts the PCI slots into which something can be plugged while the machine runs
// (/sys/bus/pci/slots; Linux, Documentation/ABI/testing), and the empty ones of them.
func (o LimitOptions) countSlots() (free, all int64) {
	slots, err := filepath.Glob(filepath.Join(o.sysfs, "bus", "pci", "slots", "*", "address"))
	if err != nil {
		return 0, 0
	}
	for _, file := range slots {
		data, err := os.ReadFile(file)
		address := strings.TrimSpace(string(data)) // domain:bus:device
		if err != nil || address == "" {
			continue
		}
		all++
		functions, err := filepath.Glob(filepath.Join(o.sysfs, "bus", "pci", "devices", address+".*"))
		if err == nil && len(functions) == 0 {
			free++
		}
	}
	return free, all
}

// ownDisks returns the disks below the node's own paths. It leaves out a path that is on no disk (a
// container's own filesystem) or on several.
func (o LimitOptions) ownDisks() map[blockdev.Device]bool {
	own := map[blockdev.Device]bool{}
	for _, path := range o.OwnPaths {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			continue
		}
		dev := uint64(st.Dev) //nolint:unconvert // 32 bits wide on some architectures
		d, err := o.Disks.ByNumber(unix.Major(dev), unix.Minor(dev))
		if err != nil {
			continue
		}
		if layers, err := o.Disks.Stack(d); err == nil {
			own[layers[len(layers)-1]] = true
		}
	}
	return own
}
