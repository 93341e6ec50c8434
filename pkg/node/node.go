// Package node is the CSI Node service (spec v1.13): it stages, publishes and
// above all grows volumes on this node. It drives a volume.Connector, block
// devices and filesystems, knows no backend by name and holds no credentials.
package node

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/growvol/growvol/pkg/operation"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/volume"
)

// defaultAnswerMargin is how long before the caller's deadline a wait is
// given up, so that the answer with the sizes and the cause still arrives:
// after the deadline the caller would only see DEADLINE_EXCEEDED.
const defaultAnswerMargin = 3 * time.Second

// Options are what a Server needs; ID, Connector, Devices, Mappings,
// Filesystems and StateDir are required.
type Options struct {
	ID          string // of this node, as the controller's Attach knows it
	Connector   volume.Connector
	Devices     Devices
	Mappings    Mappings
	Filesystems Filesystems
	// StateDir holds what must survive a restart of the plugin: records of staged
	// volumes and of formats under way. It must be on the node's own disk.
	StateDir      string
	DefaultFSType filesystem.Type // of a capability that names none; ext4 when empty
	// RequireShared refuses to mount where a mount would stay in this process's
	// mount namespace: set it when the plugin runs in a container.
	RequireShared bool
	AnswerMargin  time.Duration // DefaultAnswerMargin when zero
	// Detached gets to know the work that outlives its call (mkfs, e2fsck, growth,
	// unmount), so that the plugin can wait for it; nil: nobody asks.
	Detached *operation.Tracker
	Log      *slog.Logger // slog.Default when nil
	Observer Observer     // no observation when nil
}

// Server implements csi.NodeServer.
type Server struct {
	csi.UnimplementedNodeServer

	opts Options
	log  *slog.Logger
	// locks are three a volume: its own, held by stage, unstage and growth, one
	// for its publications, and one for readings that may hang. A growth that
	// outlives its RPC thereby keeps off whatever would disturb it, without
	// keeping a pod from starting.
	locks locks

	growthFailures    byVolume[error]       // of the last growth, for NodeGetVolumeHealth
	missedSizes       byVolume[volume.Size] // that the device has not reached, for NodeGetVolumeHealth
	firstPublishTimes byVolume[time.Time]   // of the first pod since the stage; see mountWindow
}

var _ csi.NodeServer = (*Server)(nil)

// New makes the Node service.
func New(opts Options) (*Server, error) {
	switch {
	case opts.ID == "":
		return nil, errors.New("node: the node id is empty")
	case opts.Connector == nil, opts.Devices == nil, opts.Mappings == nil, opts.Filesystems == nil:
		return nil, errors.New("node: connector, devices, mappings and filesystems are required")
	case opts.StateDir == "":
		return nil, errors.New("node: the state directory is empty")
	}
	if opts.DefaultFSType == "" {
		opts.DefaultFSType = filesystem.TypeExt4
	}
	if opts.AnswerMargin == 0 {
		opts.AnswerMargin = defaultAnswerMargin
	}
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	if opts.Observer == nil {
		opts.Observer = unobserved{}
	}
	return &Server{opts: opts, log: opts.Log}, nil
}

// NodeGetCapabilities lists what this service implements.
func (s *Server) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
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

// NodeGetInfo tells the orchestrator which node this is, where it is and how
// many volumes it takes.
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

// withAnswerMargin returns a context that ends early enough to answer in time.
func (s *Server) withAnswerMargin(ctx context.Context) (context.Context, context.CancelFunc) {
	return operation.WithMargin(ctx, s.opts.AnswerMargin, 4)
}
