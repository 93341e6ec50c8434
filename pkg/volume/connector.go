package volume

import "context"

// Connector is the node side of a backend: it turns the publish context of a volume into a
// local block device and back. It holds no credentials of the storage system. All methods
// are idempotent, also after a crash in the middle. The caller holds the volume's lock.
type Connector interface {
	// Connect makes the volume's device appear and returns the device once it can be opened.
	// Kinds: NotFound (the storage system says that the volume does not exist; a missing path
	// is no proof), Deadline (the device did not appear in time), Precondition (the device
	// exists but is not this volume, or several devices keep showing its identity).
	Connect(ctx context.Context, req ConnectRequest) (Connection, error)

	// Disconnect flushes unwritten data and undoes Connect. It succeeds for a volume that is
	// not connected or does not exist. Kinds: Precondition (the device is in use; the error
	// names its holders), Deadline. While a flush continues after its call, later calls for
	// the volume wait for it, so that none of them reports the flush as a user of the device.
	Disconnect(ctx context.Context, id string) error

	// Locate returns the connection that Connect made, and makes none itself. connected
	// reports whether the volume is connected to this node. Kind NotFound: the storage system
	// says that the volume does not exist; a connector without access to it never returns it.
	Locate(ctx context.Context, id string) (conn Connection, connected bool, err error)

	// Verify checks that the whole disk at the path is the volume. It uses what the kernel
	// shows of the disk (serial, pool and image, backing file), never the name of a link.
	// Kinds: Precondition (the disk is another volume, or not a disk of this connector),
	// Internal (the path or the device no longer exists, or the device has lost its volume),
	// NotFound as for Locate, Deadline (the disk did not answer in time).
	//
	// The error wraps ErrGone exactly when it proves that the content of the disk no longer
	// exists; see ErrGone. It never wraps ErrGone for a disk that holds something else,
	// whether or not a volume of this id exists, nor for a disk that could not be read.
	Verify(ctx context.Context, id, disk string) error

	// Node returns the topology of this node and the maximum number of attached volumes.
	Node(ctx context.Context) (NodeInfo, error)
}

// DeviceRefresher is implemented by connectors whose devices may not learn a new size by themselves,
// or can lose the storage system without a sign.
type DeviceRefresher interface {
	// RefreshDevice makes the kernel read the size of the volume's device from the storage system. It
	// does nothing for a volume that is not connected. The error wraps ErrFenced when the storage
	// system no longer accepts requests of this node for the volume (kind Precondition). Other
	// kinds: Unavailable; Deadline or Canceled when ctx ended first.
	RefreshDevice(ctx context.Context, id string) error
}

// ConnectRequest is what the node received about a volume (CSI v1.13, NodeStageVolume).
type ConnectRequest struct {
	ID             string
	PublishContext map[string]string // of Attacher.Attach
	VolumeContext  map[string]string // of Backend.Create
	ReadOnly       bool
	Secrets        map[string]string
}

// Connection is a volume's local block device.
type Connection struct {
	Path string // device node, such as /dev/loop3
	// Size is the size of the volume according to the backend; zero: the node does not know
	// it. A device smaller than MinDeviceSize(Size) is never formatted.
	Size Size
	// PublishedSize is the size of the volume that the controller read when it attached the
	// volume; zero: unknown, as after Locate. Unlike Size, the node never reads it itself.
	PublishedSize Size
	// Granularity divides every size of the backend; zero or one byte: any size.
	Granularity Size
	// MaxOverhead is the maximum number of bytes by which the device may be smaller than the
	// volume: the header of an encryption below this machine, such as Nova's LUKS. It must be
	// smaller than Granularity; see MinDeviceSize.
	MaxOverhead Size
	// Encrypted: something below this machine decrypts the device, so that blocks that were
	// never written read as random bytes. Only Connect sets it; Locate may not know it.
	Encrypted bool
	// ShortRemedy is the next step for a person when the device stays smaller than the
	// volume; empty: the general one of the node service.
	ShortRemedy string
}

// MinDeviceSize returns the minimum size of the device of a volume of at least required bytes:
// required rounded up to the granularity, less MaxOverhead. Without the rounding, a device
// that has not grown could look like one that has grown by less than MaxOverhead. For zero,
// an unknown size, MinDeviceSize returns zero.
func (c Connection) MinDeviceSize(required Size) Size {
	if required <= 0 {
		return 0
	}
	whole, ok := required.RoundUp(c.Granularity)
	if !ok {
		return required // beyond any device
	}
	return max(whole-c.MaxOverhead, 1)
}

// NodeInfo describes a node to the orchestrator.
type NodeInfo struct {
	Topology   Topology // accessible topology; nil: no constraint
	MaxVolumes int64    // volumes that can be attached; zero: no limit known
}
