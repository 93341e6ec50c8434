package instance

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

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
	// Own are paths on the node's own disks, such as the state directory's.
	// The disks are not counted as volumes, also if they are.
	Own []string

	sysfs string // "/sys"
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
// The limit is at least one, since zero means "no limit" to CSI.
func AttachLimit(ctx context.Context, o LimitOptions) (Limit, error) {
	if o.sysfs == "" {
		o.sysfs = "/sys"
	}
	patient, cancel := context.WithTimeout(ctx, diskPatience)
	defer cancel()
	limit, err := volume.Bounded(patient, o.limit)
	if patient.Err() != nil && ctx.Err() == nil {
		return Limit{maxDisks, "a disk of this machine does not answer, so they cannot be counted"}, nil
	}
	return limit, volume.Wrap(err, "count the disks of this machine", "")
}

func (o LimitOptions) limit() (Limit, error) {
	disks, err := o.Disks.Disks()
	if err != nil {
		return Limit{}, err
	}
	seen := o.count(disks)
	free, all := o.slots()
	if seen.onVirtio() && all > 0 {
		n := min(free+seen.virtioVolumes, maxDisks)
		return Limit{max(n, 1), fmt.Sprintf("virtio-blk: %d of %d PCI slots for hot-plugging are free, and volumes have %d", free, all, seen.virtioVolumes)}, nil
	}
	return Limit{max(maxDisks-seen.others, 1), fmt.Sprintf("%d disks, less %d that are no volumes", maxDisks, seen.others)}, nil
}

// census is what disks there are.
type census struct {
	virtioVolumes int64 // volumes on virtio-blk
	otherVolumes  int64 // volumes on another bus
	others        int64 // disks that are no volumes
	virtioOwn     bool  // the node's own disk is on virtio-blk
	otherOwn      bool  // or on another bus
	virtio        bool  // any disk is on virtio-blk
}

// onVirtio tells whether volumes are plugged in by virtio-blk. Nova takes one
// bus for all of them and for the disk the server boots from (image property
// hw_disk_bus); a config drive may be on another.
func (c census) onVirtio() bool {
	switch {
	case c.virtioVolumes+c.otherVolumes > 0:
		return c.virtioVolumes > 0
	case c.virtioOwn || c.otherOwn:
		return c.virtioOwn
	}
	return c.virtio
}

func (o LimitOptions) count(disks []blockdev.Device) census {
	var c census
	own := o.ownDisks()
	for _, d := range disks {
		virtio := d.Kind == blockdev.VirtioBlk
		if !virtio && d.Kind != blockdev.SCSI && d.Kind != blockdev.NVMe {
			continue
		}
		c.virtio = c.virtio || virtio
		serial, err := o.Disks.Serial(d)
		switch {
		case own[d.Number().String()]:
			c.others++
			c.virtioOwn, c.otherOwn = c.virtioOwn || virtio, c.otherOwn || !virtio
		case err != nil, !isVolume(serial):
			c.others++
		case virtio:
			c.virtioVolumes++
		default:
			c.otherVolumes++
		}
	}
	return c
}

// slots counts the PCI slots into which something can be plugged while the
// machine runs (/sys/bus/pci/slots; Linux, Documentation/ABI/testing), and
// those of them that have nothing in them.
func (o LimitOptions) slots() (free, all int64) {
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

// ownDisks returns the numbers of the disks below the node's own paths. A
// path on no disk (a container's own filesystem) or on several has none.
func (o LimitOptions) ownDisks() map[string]bool {
	own := map[string]bool{}
	for _, path := range o.Own {
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
			own[layers[len(layers)-1].Number().String()] = true
		}
	}
	return own
}
