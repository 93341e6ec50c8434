package node

import (
	"context"
	"io"
	"sync"

	"github.com/growvol/growvol/pkg/operation"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/filesystem"
)

// OpenDevice is an open block device. While it is open, the kernel gives its
// number to no other disk.
type OpenDevice interface {
	filesystem.Device
	io.Closer
}

// openVolume is the open device that holds a volume's filesystem or raw data,
// with what lies below it. The connector confirmed the disk after the device
// was opened, so the path and the number lead to this volume until it is closed.
type openVolume struct {
	OpenDevice
	id     string
	device blockdev.Device
	layers []blockdev.Device // device first, the whole disk last
	// release closes the device, which was only read from. A loop device that
	// is open anywhere cannot be disconnected.
	release func()
}

func (o *openVolume) disk() blockdev.Device { return o.layers[len(o.layers)-1] }

// openVerified opens a device and has the connector confirm that the disk below it is
// the volume. The device is closed with the lease.
func (s *Server) openVerified(ctx context.Context, id string, dev blockdev.Device, l *operation.Lease) (*openVolume, error) {
	handle, err := s.opts.Devices.Open(ctx, dev)
	if err != nil {
		return nil, err
	}
	o := &openVolume{OpenDevice: handle, id: id, device: dev, release: sync.OnceFunc(func() { _ = handle.Close() })}
	l.Add(o.release)
	o.layers, err = s.verifiedLayers(ctx, id, dev)
	if err != nil {
		o.release() // or the caller could not disconnect it
		return nil, err
	}
	return o, nil
}

// verifyDisk asks the connector once more, directly before a step that cannot be
// undone.
func (s *Server) verifyDisk(ctx context.Context, o *openVolume) error {
	return s.opts.Connector.Verify(ctx, o.id, o.disk().Path)
}

// LocalDevices are the block devices of this machine.
type LocalDevices struct{ *blockdev.System }

// Open implements Devices; see blockdev.System.OpenContext.
func (l LocalDevices) Open(ctx context.Context, d blockdev.Device) (OpenDevice, error) {
	h, err := l.OpenContext(ctx, d)
	if err != nil {
		return nil, err // and no *blockdev.Handle that is nil
	}
	return h, nil
}
