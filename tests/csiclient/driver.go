package csiclient

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

// Driver is a CSI driver seen from the orchestrator.
type Driver struct {
	Controller csi.ControllerClient
	Node       csi.NodeClient
	NodeID     string
	Dir        string // kubelet's directory: staging and target paths are made in it
}

// Connect asks the node for its id and returns the driver.
func Connect(ctx context.Context, controller, node *Plugin, dir string) (*Driver, error) {
	d := &Driver{Controller: csi.NewControllerClient(controller.Conn), Node: csi.NewNodeClient(node.Conn), Dir: dir}
	info, err := d.Node.NodeGetInfo(ctx, &csi.NodeGetInfoRequest{})
	if err != nil {
		return nil, err
	}
	d.NodeID = info.GetNodeId()
	return d, nil
}

// Volume is a volume on its way through the calls; the fields hold what each
// of them returned.
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

// MountCapability is the capability of a filesystem that one node mounts.
func MountCapability(fstype string, flags ...string) *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: fstype, MountFlags: flags}},
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
	}
}

// BlockCapability is the capability of a raw device that one node uses.
func BlockCapability() *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessType: &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}},
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
	}
}

// Create creates a volume of a name and size in bytes; source may be nil.
func (d *Driver) Create(ctx context.Context, name string, size int64, capability *csi.VolumeCapability, source *csi.VolumeContentSource) (*Volume, error) {
	return d.CreateWithParameters(ctx, nil, name, size, capability, source)
}

// CreateWithParameters is Create in a StorageClass with these parameters.
func (d *Driver) CreateWithParameters(
	ctx context.Context, parameters map[string]string, name string, size int64, capability *csi.VolumeCapability, source *csi.VolumeContentSource,
) (*Volume, error) {
	resp, err := d.Controller.CreateVolume(ctx, &csi.CreateVolumeRequest{
		Name: name, CapacityRange: &csi.CapacityRange{RequiredBytes: size}, VolumeCapabilities: []*csi.VolumeCapability{capability},
		VolumeContentSource: source, Parameters: parameters,
	})
	if err != nil {
		return nil, err
	}
	v := resp.GetVolume()
	return &Volume{
		ID: v.GetVolumeId(), Name: name, Size: v.GetCapacityBytes(), Capability: capability, VolumeContext: v.GetVolumeContext(),
		Staging: filepath.Join(d.Dir, name, "globalmount"), Target: filepath.Join(d.Dir, name, "pod"),
	}, nil
}

// Attach publishes the volume to the node on the controller's side.
func (d *Driver) Attach(ctx context.Context, v *Volume) error {
	resp, err := d.Controller.ControllerPublishVolume(ctx, &csi.ControllerPublishVolumeRequest{
		VolumeId: v.ID, NodeId: d.NodeID, VolumeCapability: v.Capability, VolumeContext: v.VolumeContext,
	})
	v.PublishContext = resp.GetPublishContext()
	return err
}

// Stage stages the volume.
func (d *Driver) Stage(ctx context.Context, v *Volume) error {
	_, err := d.Node.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{
		VolumeId: v.ID, StagingTargetPath: v.Staging, VolumeCapability: v.Capability, PublishContext: v.PublishContext, VolumeContext: v.VolumeContext, Secrets: v.Secrets,
	})
	return err
}

// Publish publishes the staged volume at its target path.
func (d *Driver) Publish(ctx context.Context, v *Volume) error {
	_, err := d.Node.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
		VolumeId: v.ID, StagingTargetPath: v.Staging, TargetPath: v.Target, VolumeCapability: v.Capability, PublishContext: v.PublishContext, VolumeContext: v.VolumeContext,
	})
	return err
}

// Unpublish undoes Publish.
func (d *Driver) Unpublish(ctx context.Context, v *Volume) error {
	_, err := d.Node.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: v.ID, TargetPath: v.Target})
	return err
}

// Unstage undoes Stage.
func (d *Driver) Unstage(ctx context.Context, v *Volume) error {
	_, err := d.Node.NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{VolumeId: v.ID, StagingTargetPath: v.Staging})
	return err
}

// Detach undoes Attach.
func (d *Driver) Detach(ctx context.Context, v *Volume) error {
	_, err := d.Controller.ControllerUnpublishVolume(ctx, &csi.ControllerUnpublishVolumeRequest{VolumeId: v.ID, NodeId: d.NodeID})
	return err
}

// Delete deletes the volume.
func (d *Driver) Delete(ctx context.Context, v *Volume) error {
	_, err := d.Controller.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: v.ID})
	return err
}

// Use attaches, stages and publishes: what happens before a pod starts.
func (d *Driver) Use(ctx context.Context, v *Volume) error {
	return callInOrder(ctx, v, step{"attach", d.Attach}, step{"stage", d.Stage}, step{"publish", d.Publish})
}

// Release unpublishes, unstages and detaches: what happens after a pod ended.
func (d *Driver) Release(ctx context.Context, v *Volume) error {
	return callInOrder(ctx, v, step{"unpublish", d.Unpublish}, step{"unstage", d.Unstage}, step{"detach", d.Detach})
}

type step struct {
	name string
	call func(context.Context, *Volume) error
}

func callInOrder(ctx context.Context, v *Volume, steps ...step) error {
	for _, s := range steps {
		if err := s.call(ctx, v); err != nil {
			return fmt.Errorf("%s %s: %w", s.name, v.Name, err)
		}
	}
	return nil
}

// Expansion is how one expansion went.
type Expansion struct {
	ControllerSize, NodeSize         int64         // bytes, as answered
	ControllerDuration, NodeDuration time.Duration // of the calls
}

// Expand asks the controller, then the node, for at least size bytes: the
// order of external-resizer and kubelet.
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

// ExpandController asks only the controller; v.Size becomes what it answers.
func (d *Driver) ExpandController(ctx context.Context, v *Volume, size int64) error {
	resp, err := d.Controller.ControllerExpandVolume(ctx, &csi.ControllerExpandVolumeRequest{
		VolumeId: v.ID, CapacityRange: &csi.CapacityRange{RequiredBytes: size}, VolumeCapability: v.Capability,
	})
	if err != nil {
		return err
	}
	v.Size = resp.GetCapacityBytes()
	if !resp.GetNodeExpansionRequired() {
		return fmt.Errorf("the controller says that the node need not be asked: nobody would prove that the device grew")
	}
	return nil
}

// ExpandNode asks only the node and returns the size it answers, in bytes.
func (d *Driver) ExpandNode(ctx context.Context, v *Volume, size int64) (int64, error) {
	resp, err := d.Node.NodeExpandVolume(ctx, &csi.NodeExpandVolumeRequest{
		VolumeId: v.ID, VolumePath: v.Target, StagingTargetPath: v.Staging, VolumeCapability: v.Capability,
		CapacityRange: &csi.CapacityRange{RequiredBytes: size}, Secrets: v.Secrets,
	})
	return resp.GetCapacityBytes(), err
}

// Health returns what the node knows to be wrong with the volume: reasons and
// their messages.
func (d *Driver) Health(ctx context.Context, v *Volume) (map[string]string, error) {
	resp, err := d.Node.NodeGetVolumeHealth(ctx, &csi.NodeGetVolumeHealthRequest{VolumeId: v.ID, StagingTargetPath: v.Staging})
	conditions := map[string]string{}
	for _, h := range resp.GetVolumeHealth().GetHealthStatuses() {
		conditions[h.GetReason()] = h.GetMessage()
	}
	return conditions, err
}

// Stats returns the filesystem's total and available bytes as the node reads
// them.
func (d *Driver) Stats(ctx context.Context, v *Volume) (total, available int64, err error) {
	resp, err := d.Node.NodeGetVolumeStats(ctx, &csi.NodeGetVolumeStatsRequest{VolumeId: v.ID, VolumePath: v.Target, StagingTargetPath: v.Staging})
	for _, u := range resp.GetUsage() {
		if u.GetUnit() == csi.VolumeUsage_BYTES {
			total, available = u.GetTotal(), u.GetAvailable()
		}
	}
	return total, available, err
}
