package csiclient

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

// Driver calls a CSI driver as Kubernetes does: its methods fill the requests of a
// volume from the answers of the calls before.
type Driver struct {
	Controller csi.ControllerClient
	Node       csi.NodeClient
	NodeID     string
	Dir        string // kubelet's directory: staging and target paths are below it
}

// connect asks the node plugin for its node id and returns the driver.
func connect(ctx context.Context, controller, node *Plugin, dir string) (*Driver, error) {
	d := &Driver{Controller: csi.NewControllerClient(controller.Conn), Node: csi.NewNodeClient(node.Conn), Dir: dir}
	info, err := d.Node.NodeGetInfo(ctx, &csi.NodeGetInfoRequest{})
	if err != nil {
		return nil, err
	}
	d.NodeID = info.GetNodeId()
	return d, nil
}

// Volume is one volume with the parts of its requests. The calls set the fields
// from what they return.
type Volume struct {
	ID             string
	Name           string
	Size           int64 // bytes, as the controller answered last
	Capability     *csi.VolumeCapability
	VolumeContext  map[string]string
	PublishContext map[string]string
	Staging        string
	Target         string
	Secrets        map[string]string // given to every node call that takes some
}

// MountCapability returns the capability of a filesystem that one node mounts, with the
// mount flags.
func MountCapability(fstype string, flags ...string) *csi.VolumeCapability {
	mount := &csi.VolumeCapability_MountVolume{FsType: fstype, MountFlags: flags}
	return &csi.VolumeCapability{
		AccessType: &csi.VolumeCapability_Mount{Mount: mount},
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
	}
}

// BlockCapability returns the capability of a raw device that one node uses.
func BlockCapability() *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessType: &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}},
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
	}
}

// Create creates a volume of at least size bytes. The source may be nil.
func (d *Driver) Create(
	ctx context.Context, name string, size int64, capability *csi.VolumeCapability, source *csi.VolumeContentSource,
) (*Volume, error) {
	return d.CreateWithParameters(ctx, nil, name, size, capability, source)
}

// CreateWithParameters is Create with the parameters of a StorageClass.
func (d *Driver) CreateWithParameters(
	ctx context.Context, parameters map[string]string, name string, size int64,
	capability *csi.VolumeCapability, source *csi.VolumeContentSource,
) (*Volume, error) {
	resp, err := d.Controller.CreateVolume(ctx, &csi.CreateVolumeRequest{
		Name:                name,
		CapacityRange:       &csi.CapacityRange{RequiredBytes: size},
		VolumeCapabilities:  []*csi.VolumeCapability{capability},
		VolumeContentSource: source,
		Parameters:          parameters,
	})
	if err != nil {
		return nil, err
	}
	v := resp.GetVolume()
	return &Volume{
		ID:            v.GetVolumeId(),
		Name:          name,
		Size:          v.GetCapacityBytes(),
		Capability:    capability,
		VolumeContext: v.GetVolumeContext(),
		Staging:       filepath.Join(d.Dir, name, "globalmount"),
		Target:        filepath.Join(d.Dir, name, "pod"),
	}, nil
}

// Attach calls ControllerPublishVolume for the node.
func (d *Driver) Attach(ctx context.Context, v *Volume) error {
	resp, err := d.Controller.ControllerPublishVolume(ctx, &csi.ControllerPublishVolumeRequest{
		VolumeId: v.ID, NodeId: d.NodeID, VolumeCapability: v.Capability, VolumeContext: v.VolumeContext,
	})
	v.PublishContext = resp.GetPublishContext()
	return err
}

// Stage calls NodeStageVolume.
func (d *Driver) Stage(ctx context.Context, v *Volume) error {
	_, err := d.Node.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{
		VolumeId: v.ID, StagingTargetPath: v.Staging, VolumeCapability: v.Capability,
		PublishContext: v.PublishContext, VolumeContext: v.VolumeContext, Secrets: v.Secrets,
	})
	return err
}

// Publish calls NodePublishVolume for the volume's target path.
func (d *Driver) Publish(ctx context.Context, v *Volume) error {
	_, err := d.Node.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
		VolumeId: v.ID, StagingTargetPath: v.Staging, TargetPath: v.Target, VolumeCapability: v.Capability,
		PublishContext: v.PublishContext, VolumeContext: v.VolumeContext,
	})
	return err
}

// Unpublish calls NodeUnpublishVolume.
func (d *Driver) Unpublish(ctx context.Context, v *Volume) error {
	_, err := d.Node.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: v.ID, TargetPath: v.Target})
	return err
}

// Unstage calls NodeUnstageVolume.
func (d *Driver) Unstage(ctx context.Context, v *Volume) error {
	_, err := d.Node.NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{VolumeId: v.ID, StagingTargetPath: v.Staging})
	return err
}

// Detach calls ControllerUnpublishVolume for the node.
func (d *Driver) Detach(ctx context.Context, v *Volume) error {
	_, err := d.Controller.ControllerUnpublishVolume(ctx, &csi.ControllerUnpublishVolumeRequest{
		VolumeId: v.ID, NodeId: d.NodeID,
	})
	return err
}

// Delete calls DeleteVolume.
func (d *Driver) Delete(ctx context.Context, v *Volume) error {
	_, err := d.Controller.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: v.ID})
	return err
}

// Use attaches, stages and publishes the volume, as Kubernetes does before a pod
// starts.
func (d *Driver) Use(ctx context.Context, v *Volume) error {
	return callInOrder(ctx, v, step{"attach", d.Attach}, step{"stage", d.Stage}, step{"publish", d.Publish})
}

// Release unpublishes, unstages and detaches the volume, as Kubernetes does after a pod
// has ended.
func (d *Driver) Release(ctx context.Context, v *Volume) error {
	return callInOrder(ctx, v, step{"unpublish", d.Unpublish}, step{"unstage", d.Unstage}, step{"detach", d.Detach})
}

// step is one call of Use or Release.
type step struct {
	name string
	call func(context.Context, *Volume) error
}

// callInOrder stops at the first call that fails.
func callInOrder(ctx context.Context, v *Volume, steps ...step) error {
	for _, s := range steps {
		if err := s.call(ctx, v); err != nil {
			return fmt.Errorf("%s %s: %w", s.name, v.Name, err)
		}
	}
	return nil
}

// Expansion is what the two calls of an expansion answered and how long they took.
type Expansion struct {
	ControllerSize, NodeSize         int64 // bytes
	ControllerDuration, NodeDuration time.Duration
}

// Expand asks the controller, then the node, for at least size bytes: the order of
// external-resizer and kubelet.
func (d *Driver) Expand(ctx context.Context, v *Volume, size int64) (Expansion, error) {
	var e Expansion
	start := time.Now()
	err := d.ExpandController(ctx, v, size)
	e.ControllerSize, e.ControllerDuration = v.Size, time.Since(start)
	if err != nil {
		return e, fmt.Errorf("controller: %w", err)
	}
	start = time.Now()
	e.NodeSize, err = d.ExpandNode(ctx, v, size)
	e.NodeDuration = time.Since(start)
	if err != nil {
		return e, fmt.Errorf("node: %w", err)
	}
	return e, nil
}

// ExpandController calls ControllerExpandVolume and sets v.Size from the answer. An
// answer that needs no expansion on the node is an error.
func (d *Driver) ExpandController(ctx context.Context, v *Volume, size int64) error {
	resp, err := d.Controller.ControllerExpandVolume(ctx, &csi.ControllerExpandVolumeRequest{
		VolumeId: v.ID, CapacityRange: &csi.CapacityRange{RequiredBytes: size}, VolumeCapability: v.Capability,
	})
	if err != nil {
		return err
	}
	v.Size = resp.GetCapacityBytes()
	if !resp.GetNodeExpansionRequired() {
		return errors.New("ControllerExpandVolume answered node_expansion_required=false, " +
			"so that no plugin would check that the device has grown")
	}
	return nil
}

// ExpandNode calls NodeExpandVolume and returns the size of the answer in bytes.
func (d *Driver) ExpandNode(ctx context.Context, v *Volume, size int64) (int64, error) {
	resp, err := d.Node.NodeExpandVolume(ctx, &csi.NodeExpandVolumeRequest{
		VolumeId: v.ID, VolumePath: v.Target, StagingTargetPath: v.Staging, VolumeCapability: v.Capability,
		CapacityRange: &csi.CapacityRange{RequiredBytes: size}, Secrets: v.Secrets,
	})
	return resp.GetCapacityBytes(), err
}

// Health calls NodeGetVolumeHealth and returns the messages of the volume's
// conditions by their reasons.
func (d *Driver) Health(ctx context.Context, v *Volume) (map[string]string, error) {
	resp, err := d.Node.NodeGetVolumeHealth(ctx, &csi.NodeGetVolumeHealthRequest{
		VolumeId: v.ID, StagingTargetPath: v.Staging,
	})
	conditions := map[string]string{}
	for _, h := range resp.GetVolumeHealth().GetHealthStatuses() {
		conditions[h.GetReason()] = h.GetMessage()
	}
	return conditions, err
}

// Stats calls NodeGetVolumeStats and returns the total and the available bytes.
func (d *Driver) Stats(ctx context.Context, v *Volume) (total, available int64, err error) {
	resp, err := d.Node.NodeGetVolumeStats(ctx, &csi.NodeGetVolumeStatsRequest{
		VolumeId: v.ID, VolumePath: v.Target, StagingTargetPath: v.Staging,
	})
	for _, u := range resp.GetUsage() {
		if u.GetUnit() == csi.VolumeUsage_BYTES {
			total, available = u.GetTotal(), u.GetAvailable()
		}
	}
	return total, available, err
}
