package instance

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/growvol/growvol/pkg/operation"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
)

// maxDisks is taken for the disks that a server can have when nothing is
// known: the default that cinder-csi-plugin documents, and the number of
// targets of a virtio-scsi controller.
const maxDisks = 256

// Limit is how many volumes can be attached to this machine, and why.
type Limit struct {
	Volumes int64
	Reason  string // for the log
}

// LimitOptions say where to look.
type LimitOptions struct {
	Disks Disks // required
	// OwnPaths are paths on the node's own disks, such as the state directory's.
	// The disks are not counted as volumes, also if they are.
	OwnPaths []string
	// Staged returns the ids of the volumes that are staged on this node; nil: none
	// are known.
	Staged func() []string
	// Reserved is how many of the volumes that can be attached are left to others.
	Reserved int64

	sysfs string // "/sys"
	proc  string // "/proc"
}

// AttachLimit tells how many volumes the orchestrator may have attached to
// this machine at a time, those included that are attached now.
//
// A virtio-blk disk takes a PCI slot of its own, and the kernel lists the slots
// into which the hypervisor can plug something: on the machine type pc the
// slots of the bus, on q35 the root ports. The limit is the free ones and those
// that volumes have. A network interface that is plugged in later takes one too.
//
// A virtio-scsi disk takes a target of the controller, of which there are 256,
// less the disks that are no volumes. That is also the answer for everything
// else, for nothing better can be known here: what Nova itself allows
// ([compute]max_disk_devices_to_attach) it tells only by refusing.
//
// A disk that could be a volume counts as taken when it is used, but not by the
// orchestrator: somebody else has attached it, and keeps it. See isForeign.
//
// When a disk does not answer, the disks cannot be counted. The answer is then all
// the slots if any disk is virtio-blk, for the orchestrator asks once and keeps what
// it was told, and a number too high has volumes attached that never arrive.
//
// Reserved is subtracted at the end. The limit is at least one, since zero means
// "no limit" to CSI.
func AttachLimit(ctx context.Context, o LimitOptions) (Limit, error) {
	if o.sysfs == "" {
		o.sysfs = "/sys"
	}
	if o.proc == "" {
		o.proc = "/proc"
	}
	patient, cancel := context.WithTimeout(ctx, diskTimeout)
	defer cancel()
	rough := make(chan Limit, 1)
	limit, err := operation.AwaitCall(patient, func() (Limit, error) { return o.computeLimit(rough) })
	if patient.Err() != nil && ctx.Err() == nil {
		limit, err = Limit{maxDisks, ""}, nil
		select {
		case limit = <-rough:
		default:
		}
		limit.Reason += "a disk of this machine does not answer, so they cannot be counted"
	}
	if o.Reserved > 0 {
		limit.Volumes -= o.Reserved
		limit.Reason += fmt.Sprintf("; %d are reserved for others", o.Reserved)
	}
	limit.Volumes = max(limit.Volumes, 1)
	return limit, volume.Wrap(err, "count the disks of this machine", "")
}

// computeLimit counts. It sends what is known without an answer from any disk to rough.
func (o LimitOptions) computeLimit(rough chan<- Limit) (Limit, error) {
	disks, err := o.Disks.Disks()
	if err != nil {
		return Limit{}, err
	}
	free, all := o.countSlots()
	rough <- roughLimit(disks, all)
	seen, err := o.countDisks(disks)
	if err != nil {
		return Limit{}, err
	}
	foreign := ""
	if len(seen.foreign) > 0 {
		foreign = fmt.Sprintf("; used, but not by this cluster: %s", strings.Join(seen.foreign, ", "))
	}
	if seen.usesVirtioBlk() && all > 0 {
		n := min(free+seen.virtioVolumes, maxDisks)
		return Limit{n, fmt.Sprintf("virtio-blk: %d of %d PCI slots for hot-plugging are free, and volumes have %d%s",
			free, all, seen.virtioVolumes, foreign)}, nil
	}
	return Limit{maxDisks - seen.others, fmt.Sprintf("%d disks, less %d that are no volumes of this cluster%s", maxDisks, seen.others, foreign)}, nil
}

// roughLimit is the limit of a machine whose disks do not answer.
func roughLimit(disks []blockdev.Device, slots int64) Limit {
	if slots > 0 && slices.ContainsFunc(disks, func(d blockdev.Device) bool { return d.Kind == blockdev.KindVirtioBlk }) {
		return Limit{min(slots, maxDisks), fmt.Sprintf("virtio-blk: %d PCI slots for hot-plugging, free or not; ", slots)}
	}
	return Limit{Volumes: maxDisks}
}

// diskCounts is how many disks of which sort there are.
type diskCounts struct {
	virtioVolumes int64    // volumes of the cluster on virtio-blk
	others        int64    // disks that are no volumes of the cluster
	foreign       []string // those of them that have a volume's serial: device nodes

	volumeOnVirtio, volumeElsewhere bool // buses of volumes, foreign ones too
	ownOnVirtio, ownElsewhere       bool // buses of the node's own disks
	anyOnVirtio                     bool // any disk is on virtio-blk
}

// usesVirtioBlk tells whether volumes are plugged in by virtio-blk. Nova takes one
// bus for all of them and for the disk the server boots from (image property
// hw_disk_bus); a config drive may be on another.
func (c diskCounts) usesVirtioBlk() bool {
	switch {
	case c.volumeOnVirtio || c.volumeElsewhere:
		return c.volumeOnVirtio
	case c.ownOnVirtio || c.ownElsewhere:
		return c.ownOnVirtio
	}
	return c.anyOnVirtio
}

func (o LimitOptions) countDisks(disks []blockdev.Device) (diskCounts, error) {
	var c diskCounts
	own := o.ownDisks()
	used, err := o.readUses()
	if err != nil {
		return c, err
	}
	for _, d := range disks {
		virtio := d.Kind == blockdev.KindVirtioBlk
		if !virtio && d.Kind != blockdev.KindSCSI && d.Kind != blockdev.KindNVMe {
			continue
		}
		c.anyOnVirtio = c.anyOnVirtio || virtio
		serial, err := o.Disks.Serial(d)
		if own[d] {
			c.others++
			c.ownOnVirtio, c.ownElsewhere = c.ownOnVirtio || virtio, c.ownElsewhere || !virtio
			continue
		}
		if err != nil || !isVolumeSerial(serial) {
			c.others++
			continue
		}
		c.volumeOnVirtio, c.volumeElsewhere = c.volumeOnVirtio || virtio, c.volumeElsewhere || !virtio
		switch {
		case o.isForeign(d, serial, used):
			c.others++
			c.foreign = append(c.foreign, d.Path)
		case virtio:
			c.virtioVolumes++
		}
	}
	return c, nil
}

// countSlots counts the PCI slots into which something can be plugged while the
// machine runs (/sys/bus/pci/slots; Linux, Documentation/ABI/testing), and
// those of them that have nothing in them.
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
		if functions, err := filepath.Glob(filepath.Join(o.sysfs, "bus", "pci", "devices", address+".*")); err == nil && len(functions) == 0 {
			free++
		}
	}
	return free, all
}

// ownDisks returns the disks below the node's own paths. A path on no disk (a
// container's own filesystem) or on several has none.
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
