// Package inspect answers what is what on a node: which block device a mount shows, whether that
// device is the volume, and what else uses the volume's disk. It only reads: package node mounts,
// grows and disconnects after it has these answers.
//
// Begin with Inspector.FindMount and Inspector.OpenMount for a mounted filesystem, or with
// Inspector.Open for a raw device: both return a Volume whose identity is verified while it is
// open.
package inspect

import (
	"context"
	"io"
	"sync"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/luks"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// Devices is what an Inspector needs of the node's block devices.
type Devices interface {
	ByPath(path string) (blockdev.Device, error)
	ByNumber(major, minor uint32) (blockdev.Device, error)
	Open(ctx context.Context, d blockdev.Device) (OpenDevice, error)
	Stack(d blockdev.Device) ([]blockdev.Device, error)
	Holders(d blockdev.Device) ([]blockdev.Device, error)
}

// Mappings is what an Inspector needs of the node's dm-crypt mappings.
type Mappings interface {
	Find(ctx context.Context, id string) (m luks.Mapping, ok bool, err error)
}

// Filesystems is what an Inspector needs of the node's mounts.
type Filesystems interface {
	FindMount(path string) (filesystem.Mount, bool, error)
	MountsOf(ctx context.Context, number blockdev.DeviceNumber) ([]filesystem.Mount, error)
}

// Inspector reads the node through its fields, which are all required.
type Inspector struct {
	Connector   volume.Connector
	Devices     Devices
	Mappings    Mappings
	Filesystems Filesystems
}

// OpenDevice is an open block device. The kernel gives its number to no other disk while it is
// open.
type OpenDevice interface {
	filesystem.Device
	io.Closer
}

// Volume is the open device that holds a volume's filesystem or raw data. The connector verified
// the disk after the device was opened, so path and number lead to this volume until Release.
type Volume struct {
	OpenDevice
	ID     string
	Device blockdev.Device
	Layers []blockdev.Device // from Device down to the whole disk
	// Release closes the device, which was only read. A loop device that is open anywhere cannot be
	// disconnected.
	Release func()
}

// Disk returns the whole disk below the device.
func (v *Volume) Disk() blockdev.Device { return v.Layers[len(v.Layers)-1] }

// Open opens dev and has the connector verify that the disk below it is the volume. The lease
// releases the Volume.
func (i Inspector) Open(
	ctx context.Context, id string, dev blockdev.Device, lease *operation.Lease,
) (*Volume, error) {
	handle, err := i.Devices.Open(ctx, dev)
	if err != nil {
		return nil, err
	}
	v := &Volume{
		OpenDevice: handle, ID: id, Device: dev,
		Release: sync.OnceFunc(func() { _ = handle.Close() }),
	}
	lease.Add(v.Release)
	if v.Layers, err = i.verifiedLayers(ctx, id, dev); err != nil {
		v.Release() // an open device cannot be disconnected
		return nil, err
	}
	return v, nil
}

// OpenMount opens the device that m shows, as Open does.
func (i Inspector) OpenMount(
	ctx context.Context, id string, m filesystem.Mount, lease *operation.Lease,
) (*Volume, error) {
	dev, err := i.deviceOfMount(m)
	if err != nil {
		return nil, err
	}
	return i.Open(ctx, id, dev, lease)
}

// Verify verifies the disk once more, directly before a step that cannot be undone.
func (i Inspector) Verify(ctx context.Context, v *Volume) error {
	return i.Connector.Verify(ctx, v.ID, v.Disk().Path)
}

// verifiedLayers returns the layers from dev down to the whole disk, after the connector has
// verified that the disk is the volume.
func (i Inspector) verifiedLayers(ctx context.Context, id string, dev blockdev.Device) ([]blockdev.Device, error) {
	layers, err := i.Devices.Stack(dev)
	if err != nil {
		return nil, err
	}
	return layers, i.Connector.Verify(ctx, id, layers[len(layers)-1].Path)
}
