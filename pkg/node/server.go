// Package node is the CSI Node service (spec v1.13): it stages, publishes and grows volumes on this
// node. It works through a volume.Connector, block devices, LUKS mappings and filesystems, knows no
// backend by name and holds no credentials.
//
// New makes the service; command growvol-node serves it. Each RPC has a file of its own (stage.go,
// publish.go, expand.go, …) that reads from the RPC down to the steps; grow.go grows a volume for
// NodeExpandVolume, NodeStageVolume and GrowOnDeviceChange. Below are internal/inspect, which
// answers which device is which, and stagerecord, which remembers staged volumes across restarts.
package node

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/csi-addons/spec/lib/go/reclaimspace"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/luks"
	"github.com/growvol/growvol/pkg/node/internal/inspect"
	"github.com/growvol/growvol/pkg/node/stagerecord"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// defaultRollbackMargin is how long before the end of the call's context NodeStageVolume stops to
// wait, so that it can undo what it has done (see rollBack).
const defaultRollbackMargin = 3 * time.Second

// Options configure a Server; ID, Connector, Devices, Mappings, Filesystems, StateDir and
// Metrics are required.
type Options struct {
	ID          string // id of this node, as the controller passes it to Attach
	Connector   volume.Connector
	Devices     Devices
	Mappings    Mappings
	Filesystems Filesystems
	// StateDir holds what must survive a restart of the plugin: records of staged volumes, and
	// markers of formats that have begun. It must be on the node's own disk.
	StateDir string
	// Limiter limits the I/O of volumes whose publish context has limits; nil: they are refused.
	Limiter       IOLimiter
	DefaultFSType filesystem.Type // type for a capability that names none; ext4 when empty
	// RequireShared refuses to mount where the mount would be visible in this process's mount
	// namespace only: set it when the plugin runs in a container.
	RequireShared bool
	// RollbackMargin is the time that NodeStageVolume keeps for undoing what it has done.
	RollbackMargin time.Duration // 3 s when zero
	// Detached lists the work that continues after its call (mkfs, e2fsck, growth, unmount), so that
	// the plugin can wait for this work before it exits. With nil the work is not listed.
	Detached *operation.Tracker
	Log      *slog.Logger // slog.Default when nil
	Metrics  *Metrics
}

// Devices is what the service needs of the node's block devices; LocalDevices implements it.
type Devices interface {
	inspect.Devices
	Size(d blockdev.Device) (volume.Size, error)
	IsReadOnly(d blockdev.Device) (bool, error)
	DiscardLimit(d blockdev.Device) (volume.Size, error)
	WatchSizes(ctx context.Context, changed func(blockdev.SizeEvent)) error
	AwaitSize(ctx context.Context, d blockdev.Device, want volume.Size) (volume.Size, error)
}

// Mappings is what the service needs of the node's dm-crypt mappings; *luks.System implements it.
type Mappings interface {
	inspect.Mappings
	Header(ctx context.Context, d blockdev.Device) (luks.Header, error)
	Format(ctx context.Context, req luks.FormatRequest) (h luks.Header, fresh bool, err error)
	Open(ctx context.Context, req luks.OpenRequest) (luks.Mapping, error)
	Grow(ctx context.Context, d blockdev.Device, passphrase []byte) (volume.Size, error)
	Close(ctx context.Context, id string) error
	CloseOn(ctx context.Context, id string, disk blockdev.Device) error
}

// Filesystems is what the service needs of the node's filesystems and mounts; *filesystem.System
// implements it.
type Filesystems interface {
	inspect.Filesystems
	Probe(ctx context.Context, dev filesystem.Device) (filesystem.Signature, error)
	Format(ctx context.Context, req filesystem.FormatRequest) error
	Check(ctx context.Context, dev filesystem.Device, t filesystem.Type) error
	Mount(ctx context.Context, req filesystem.MountRequest) error
	Bind(ctx context.Context, req filesystem.BindRequest) error
	Unmount(ctx context.Context, m filesystem.Mount) error
	Grow(ctx context.Context, req filesystem.GrowRequest) (filesystem.Growth, error)
	Trim(ctx context.Context, req filesystem.TrimRequest) (volume.Size, error)
	ReadUsage(m filesystem.Mount) (filesystem.Usage, error)
	CheckHealth(ctx context.Context, dev filesystem.Device, mountPoint string) error
	Measure(ctx context.Context, dev filesystem.Device, mountPoint string) (filesystem.Measurement, error)
	Propagates(path string) (bool, error)
}

// LocalDevices are the block devices of this machine.
type LocalDevices struct{ *blockdev.System }

// Open implements Devices; see blockdev.System.OpenContext.
func (l LocalDevices) Open(ctx context.Context, d blockdev.Device) (inspect.OpenDevice, error) {
	h, err := l.OpenContext(ctx, d)
	if err != nil {
		return nil, err // not a nil *blockdev.Handle in a non-nil interface
	}
	return h, nil
}

// Server implements csi.NodeServer, and reclaimspace.ReclaimSpaceNodeServer of csi-addons.
type Server struct {
	csi.UnimplementedNodeServer
	reclaimspace.UnimplementedReclaimSpaceNodeServer

	opts      Options
	log       *slog.Logger
	inspector inspect.Inspector
	records   stagerecord.Store
	locks     locks

	// By volume id, until the plugin ends or the volume is unstaged; trims until they end.
	growthFailures byVolume[error]       // error of the last growth if it failed, for NodeGetVolumeHealth
	missedSizes    byVolume[volume.Size] // required size that the device did not reach, for NodeGetVolumeHealth
	trims          byVolume[*trim]       // the trims that run; set with the volume's lock
	podStartTimes  byVolume[time.Time]   // of the NodePublishVolume for a pod that may still start; see podStartWindow

	lastReadings byVolume[*volumeReading] // of ReadVolumes, until the volume is unstaged
}

var (
	_ csi.NodeServer                      = (*Server)(nil)
	_ reclaimspace.ReclaimSpaceNodeServer = (*Server)(nil)
)

// New makes the Node service.
func New(opts Options) (*Server, error) {
	switch {
	case opts.ID == "":
		return nil, errors.New("node: the node id is empty")
	case opts.Connector == nil, opts.Devices == nil, opts.Mappings == nil, opts.Filesystems == nil, opts.Metrics == nil:
		return nil, errors.New("node: connector, devices, mappings, filesystems and metrics are required")
	case opts.StateDir == "":
		return nil, errors.New("node: the state directory is empty")
	}
	opts.DefaultFSType = cmp.Or(opts.DefaultFSType, filesystem.TypeExt4)
	opts.RollbackMargin = cmp.Or(opts.RollbackMargin, defaultRollbackMargin)
	opts.Log = cmp.Or(opts.Log, slog.Default())
	return &Server{
		opts: opts, log: opts.Log,
		inspector: inspect.Inspector{
			Connector: opts.Connector, Devices: opts.Devices, Mappings: opts.Mappings, Filesystems: opts.Filesystems,
		},
		records: stagerecord.Store{Dir: opts.StateDir, Log: opts.Log},
	}, nil
}

// NodeGetCapabilities lists what this service implements.
func (s *Server) NodeGetCapabilities(
	context.Context, *csi.NodeGetCapabilitiesRequest,
) (*csi.NodeGetCapabilitiesResponse, error) {
	types := []csi.NodeServiceCapability_RPC_Type{
		csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME,
		csi.NodeServiceCapability_RPC_EXPAND_VOLUME,
		csi.NodeServiceCapability_RPC_GET_VOLUME_STATS,
		csi.NodeServiceCapability_RPC_GET_VOLUME_HEALTH,
		csi.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
	}
	resp := &csi.NodeGetCapabilitiesResponse{}
	for _, t := range types {
		resp.Capabilities = append(resp.Capabilities, &csi.NodeServiceCapability{
			Type: &csi.NodeServiceCapability_Rpc{Rpc: &csi.NodeServiceCapability_RPC{Type: t}},
		})
	}
	return resp, nil
}

// NodeGetInfo returns the node's id, its topology and how many volumes it can take.
func (s *Server) NodeGetInfo(ctx context.Context, _ *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	info, err := s.opts.Connector.Node(ctx)
	if err != nil {
		return nil, volume.Wrap(err, "describe node", s.opts.ID)
	}
	resp := &csi.NodeGetInfoResponse{NodeId: s.opts.ID, MaxVolumesPerNode: info.MaxVolumes}
	if len(info.Topology) > 0 {
		resp.AccessibleTopology = &csi.Topology{Segments: info.Topology}
	}
	return resp, nil
}

// byVolume is a map of volume ids that is safe for concurrent use. The zero value is ready to use.
type byVolume[T any] struct{ values sync.Map }

func (b *byVolume[T]) set(id string, value T) { b.values.Store(id, value) }

// get returns the zero value for a volume that is not in the map.
func (b *byVolume[T]) get(id string) T {
	value, _ := b.values.Load(id)
	typed, _ := value.(T)
	return typed
}

// getOrSet returns the value of a volume, after setting it if the volume was not in the map.
func (b *byVolume[T]) getOrSet(id string, value T) T {
	stored, _ := b.values.LoadOrStore(id, value)
	typed, _ := stored.(T)
	return typed
}

func (b *byVolume[T]) forget(id string) { b.values.Delete(id) }
