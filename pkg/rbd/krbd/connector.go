// Package krbd is the node side of Ceph RBD volumes: it maps images with the client in the Linux
// kernel, through sysfs. It runs no program and links no Ceph library.
//
// New makes the Connector, which package node drives. bus.go reads and writes the kernel's bus,
// target.go and options.go decide what is mapped and how, connect.go maps, find.go finds the
// mapping of a volume, disconnect.go unmaps.
//
// A mapping is identified by the ids that the kernel shows of it. Two things connect a volume id
// with a mapping, also after a crash: a record (record.go), and the name of the key in the options
// of the mapping, which the kernel shows as well.
package krbd

import (
	"context"
	"log/slog"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/rbd/cluster"
	"github.com/growvol/growvol/pkg/volume"
)

// sectorSize is the unit of a device's size: the kernel leaves out the rest of an image.
const sectorSize volume.Size = 512

const (
	retryRemedy = "Kubernetes retries this automatically; if the error persists, "
	logRemedy   = "read the cause in the kernel log of this node: journalctl --dmesg --grep 'rbd|libceph'"
)

// Clusters has the Ceph clusters; cluster.Files implements it.
type Clusters interface {
	Read(id string) (cluster.Cluster, error)
	IDs() ([]string, error)
}

// Devices is what the connector needs of the machine's block devices; *blockdev.System implements
// it.
type Devices interface {
	ByNumber(major, minor uint32) (blockdev.Device, error)
	ByPath(path string) (blockdev.Device, error)
	IsReadOnly(d blockdev.Device) (bool, error)
	Flush(ctx context.Context, d blockdev.Device) error
	InUseError(d blockdev.Device) error
}

// Recorder stores outside of this node which Ceph clients the node uses, so that exactly they can
// be fenced when the node fails. All methods are idempotent.
type Recorder interface {
	// Mapped returns once it is stored that the volume is mapped by the client, which has the form
	// ip:port/nonce.
	Mapped(ctx context.Context, volumeID, fsid, clientAddress string) error
	// CheckAttached returns an error of kind Precondition if the volume is no longer attached to this
	// node. Success after Mapped means that it stays so until the node has unmapped it or is fenced.
	CheckAttached(ctx context.Context, volumeID string) error
	// Unmapped is called after the volume was unmapped.
	Unmapped(ctx context.Context, volumeID string) error
}

// Options configure a Connector; Clusters, Devices and StateDir are required.
type Options struct {
	Clusters Clusters
	Devices  Devices
	// StateDir holds the records of mapped volumes; it must survive a restart of the plugin, and be
	// used by nothing else.
	StateDir string
	Node     volume.NodeInfo
	// CrushLocation is where this node is, type:name[|type:name...], such as host:a|zone:b: reads
	// go to the nearest replica. Empty: to the primary one.
	CrushLocation string
	Recorder      Recorder     // nil: none
	Log           *slog.Logger // nil: none
}

// Connector maps and unmaps images on this node. It implements volume.Connector,
// volume.DeviceRefresher and volume.HealthChecker.
type Connector struct {
	opts    Options
	bus     bus
	records records
	log     *slog.Logger
	// operations are locked by volume id, and images by the name of the image, while the kernel
	// works on a mapping, also after the call: the kernel can wait for the cluster without limit.
	operations, images operation.Locks
	refreshes          operation.Locks // by the mapping's number; see RefreshDevice
}

var (
	_ volume.Connector       = (*Connector)(nil)
	_ volume.DeviceRefresher = (*Connector)(nil)
	_ volume.HealthChecker   = (*Connector)(nil)
)

// New returns the connector of this node. Kind Invalid.
func New(o Options) (*Connector, error) {
	if o.Clusters == nil || o.Devices == nil || o.StateDir == "" {
		return nil, volume.Errorf(volume.KindInvalid,
			"the connector of Ceph RBD needs the clusters, the machine's devices and a state directory")
	}
	if o.CrushLocation != "" {
		if err := checkCrushLocation(o.CrushLocation); err != nil {
			return nil, err
		}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Connector{
		opts: o, log: o.Log, records: records{dir: o.StateDir},
		bus: bus{dir: "/sys/bus/rbd", kernel: linuxKernel{}},
	}, nil
}

// Node implements volume.Connector.
func (c *Connector) Node(context.Context) (volume.NodeInfo, error) { return c.opts.Node, nil }

// CheckHealth implements volume.HealthChecker: the kernel has its client, and the clusters are
// configured. It does not connect to a cluster.
func (c *Connector) CheckHealth(context.Context) error {
	if err := c.bus.checkLoaded(); err != nil {
		return err
	}
	_, err := c.opts.Clusters.IDs()
	return err
}
