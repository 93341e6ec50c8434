package volume

import "context"

// Connector is the node side of a backend: it turns what the controller
// published into a local block device and back. It holds no credentials of
// the storage system. All methods are idempotent, also after a crash half-way;
// the caller holds the volume's lock.
type Connector interface {
	// Connect makes the volume's device appear and returns it once it can be
	// opened. Kinds: NotFound (the backend says there is no such volume, never
	// just a missing path), Deadline (the device did not appear in time),
	// Precondition (the device is there but is not this volume, or several
	// devices show its identity and keep doing so).
	Connect(ctx context.Context, req ConnectRequest) (Connection, error)

	// Disconnect undoes Connect, flushing what is unwritten. Not connected, or
	// a volume that does not exist, is a success. Kinds: Precondition (the device
	// is still in use, with its holders named), Deadline (the time ran out). A
	// flush that outlives its call keeps later calls for the volume waiting, so
	// that none of them takes the flush for a user of the device.
	Disconnect(ctx context.Context, id string) error

	// Locate returns the connection of a volume that Connect has made, without
	// making one. connected is false when the volume is not connected here.
	// Kind NotFound: the backend says there is no such volume (connectors that
	// cannot know never say so).
	Locate(ctx context.Context, id string) (conn Connection, connected bool, err error)

	// Verify confirms that the whole disk at the path is the volume, by what
	// the kernel says of it (serial, pool and image, backing file), never by
	// the name of a link. Kinds: Precondition (it is another volume, or a disk of
	// another sort), Internal (it is nobody's: the path or the device is gone,
	// or the device has lost its volume), NotFound as for Locate, Deadline (the
	// disk did not answer in time).
	//
	// The error wraps ErrGone exactly when it proves that what the disk held is
	// gone: the kernel has no such device, the device has lost its volume, or it
	// holds what is left of the volume of this id after its deletion. It never
	// wraps ErrGone for a disk that holds something else, whether a volume of this
	// id exists or not, nor for a disk that could not be read.
	Verify(ctx context.Context, id, disk string) error

	// Node tells where this node is and how many volumes it can take.
	Node(ctx context.Context) (NodeInfo, error)
}

// ConnectRequest is what the node got from the orchestrator about a volume.
type ConnectRequest struct {
	ID             string
	PublishContext map[string]string // publish context of Attacher.Attach
	VolumeContext  map[string]string // volume context
	ReadOnly       bool
	Secrets        map[string]string
}

// Connection is a volume's local block device.
type Connection struct {
	Path string // device node, such as /dev/loop3
	// Size is that of the volume, according to the backend; zero when it is
	// not known on the node. Nothing is formatted on a device that is smaller
	// than DeviceSize of it.
	Size Size
	// PublishedSize is the volume's size that the controller read when it attached
	// the volume; zero: unknown, as after Locate. Unlike Size it never comes from
	// a reading on the node.
	PublishedSize Size
	// Granularity is what the backend's sizes are multiples of; zero or one byte:
	// any size.
	Granularity Size
	// MaxOverhead is how many bytes of the volume the device may lack at most: the
	// header of an encryption below this machine. It must be smaller than the
	// granule; see DeviceSize.
	MaxOverhead Size
	// Encrypted says that something below this machine decrypts the device, so
	// that what was never written reads as noise. Only Connect may know it.
	Encrypted bool
	// ShortRemedy is the next step for a person when the device stays smaller
	// than the volume; empty: the driver has a general one.
	ShortRemedy string
}

// DeviceSize is what the device must show at least for a volume that must hold
// so many bytes. Volumes come in whole granules, so the requirement is first
// rounded up to one; only then is the hidden part taken off. The other way
// round a device that has not grown would pass for one that has grown by less
// than the hidden part. Zero, for an unknown size, stays zero.
func (c Connection) DeviceSize(required Size) Size {
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
