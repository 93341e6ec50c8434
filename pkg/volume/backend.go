package volume

import "context"

// This file holds the interfaces that a storage backend implements, with their requests:
// Backend, which every backend has, and the optional ones after it.

// CreateRequest describes a new volume.
type CreateRequest struct {
	Name              string            // idempotency key
	Size              Size              // resolved under the backend's Limits
	Range             Range             // the requested range; an existing volume of this name fits if its size lies in it
	Source            Source            // for Restore and CloneVolume
	Parameters        map[string]string // of the StorageClass, backend-specific
	MutableParameters map[string]string // of the VolumeAttributesClass; set only for backends that implement Modifier
	Encrypted         bool              // the node encrypts the volume; kept as Volume.Encrypted
	Accesses          []Access          // how the volume will be used; already checked against AccessModes
	Requisite         []Topology        // the volume must be reachable from one of these; empty: from anywhere
	Preferred         []Topology        // in order of preference
	// OnAccepted, unless nil, is called when the storage system has accepted the copy of
	// Source. From then on other calls may attach, detach, expand, delete and copy Source. A
	// backend calls it on the goroutine of the call, possibly more than once, and never
	// after the call. A backend that needs the source until the end does not call it.
	OnAccepted func()
}

// NotifyAccepted calls OnAccepted, if it is set.
func (r CreateRequest) NotifyAccepted() {
	if r.OnAccepted != nil {
		r.OnAccepted()
	}
}

// Backend has the methods that every storage backend must have; the interfaces below it are
// optional, and the controller advertises the CSI capabilities of those that a backend has.
// All methods are idempotent and convergent: they lead to the requested state from any state
// that an interrupted call has left. The caller holds the volume's lock.
//
// The secrets of a request are in the context (SecretsFrom). Errors are of type *Error. The kinds
// Unavailable, Deadline, Canceled, Denied, Unauthenticated and Internal are possible everywhere; a
// method lists only the others.
type Backend interface {
	// Limits returns the granularity and the bounds of volume sizes.
	Limits() Limits

	// AccessModes returns the modes that volumes of this backend support.
	AccessModes() []AccessMode

	// HasTopology reports whether volumes may be reachable from some nodes only. The
	// result must be constant.
	HasTopology() bool

	HealthChecker

	// Find looks for a volume of the requested name in the cloud or directory in which
	// Create would make it. It does not check whether the volume fits the request or is
	// usable. The Source of the volume is the one that it was made from, even if that no
	// longer exists. A volume that Find does not find may still exist; only Get proves that a
	// volume is gone. An error has a kind for which Kind.IsFinal is false.
	Find(ctx context.Context, req CreateRequest) (v Volume, found bool, err error)

	// Create makes an empty volume, or returns the existing volume of the requested name if
	// it fits the request. The volume is usable when Create returns. Kinds: AlreadyExists (the
	// existing volume does not fit), Invalid (parameters), OutOfRange (no space, quota), Exhausted
	// (no requisite topology can be served; CSI v1.13, CreateVolume errors).
	Create(ctx context.Context, req CreateRequest) (Volume, error)

	// Delete removes the volume, and returns when the volume no longer exists. It succeeds
	// for a volume that does not exist. Kind Precondition: the volume is in use, or snapshots
	// depend on it.
	Delete(ctx context.Context, id string) error

	// Get reads the volume. Kind NotFound: the storage system says that it does not exist.
	Get(ctx context.Context, id string) (Volume, error)

	// Expand grows the volume to at least target bytes, online if it is in use, and returns
	// the volume as read after the growth. It succeeds only if the size that was read is at
	// least target. It does not change a volume that is large enough, and waits for an
	// expansion that is already running instead of requesting a second one. Kinds: NotFound,
	// OutOfRange, InProgress, Precondition (in use, and the storage system expands only
	// volumes that are not).
	Expand(ctx context.Context, id string, target Size) (Volume, error)
}

// Abandoner is implemented by backends in which a creation that failed or got no answer can
// leave a volume behind.
type Abandoner interface {
	// Abandon is called instead of Create for a request that is refused with err. It removes
	// the volumes that earlier creations of the name left behind, and returns err. While a
	// volume of the name exists or may still be created, it returns an error of a kind for
	// which Kind.IsFinal is false.
	Abandon(ctx context.Context, req CreateRequest, err error) error
}

// Snapshotter is implemented by backends that can take snapshots and restore volumes from
// them.
type Snapshotter interface {
	// CreateSnapshot takes a snapshot of a volume, or returns the snapshot of that name if it
	// is of the same volume. It returns when the content of the snapshot is fixed, which may
	// be before the snapshot is Ready: the caller stores the first id that it gets and never
	// replaces it. Kinds: NotFound (volume), AlreadyExists.
	CreateSnapshot(ctx context.Context, req SnapshotRequest) (Snapshot, error)
	// DeleteSnapshot removes a snapshot. It succeeds for a snapshot that does not exist.
	DeleteSnapshot(ctx context.Context, id string) error
	// GetSnapshot reads a snapshot. Kind NotFound.
	GetSnapshot(ctx context.Context, id string) (Snapshot, error)
	// Restore is Create with the content of req.Source.SnapshotID. The volume may be larger
	// than the snapshot. Restore returns an existing volume of the name even if the snapshot
	// no longer exists. Kinds: those of Create, NotFound (snapshot).
	Restore(ctx context.Context, req CreateRequest) (Volume, error)
}

// SnapshotRequest describes a new snapshot.
type SnapshotRequest struct {
	Name       string // idempotency key
	VolumeID   string
	Parameters map[string]string
	// OnAccepted, unless nil, is called when the storage system has accepted the snapshot of
	// VolumeID; see CreateRequest.OnAccepted.
	OnAccepted func()
}

// NotifyAccepted calls OnAccepted, if it is set.
func (r SnapshotRequest) NotifyAccepted() {
	if r.OnAccepted != nil {
		r.OnAccepted()
	}
}

// Cloner is implemented by backends that can make a volume from another volume.
type Cloner interface {
	// CloneVolume is Create with the content of req.Source.VolumeID, which may be in use. The
	// clone may be larger. CloneVolume returns an existing volume of the name even if the
	// source has grown or no longer exists. Kinds: those of Create, NotFound (source).
	CloneVolume(ctx context.Context, req CreateRequest) (Volume, error)
}

// Attacher is implemented by backends whose volumes must be attached to a node before the
// node can see them. Without it, a node reaches the volumes directly.
type Attacher interface {
	// Attach makes the volume visible to the node and returns its publish context. Kinds:
	// NotFound (volume or node), Precondition (attached to another node and not shareable),
	// AlreadyExists (attached to this node with other capabilities), Exhausted (the node has
	// no slot left).
	Attach(ctx context.Context, req AttachRequest) (map[string]string, error)
	// Detach undoes Attach, and returns when the node can no longer reach the volume. An
	// empty node means all nodes. It succeeds for a volume or node that does not exist.
	Detach(ctx context.Context, id, node string) error
}

// AttachRequest describes the attachment of a volume to a node.
type AttachRequest struct {
	VolumeID string
	Node     string
	Access   Access
	ReadOnly bool
}

// Page selects a part of a listing.
type Page struct {
	Token string // the next token that the previous page returned; empty: the first page
	Max   int    // maximum number of entries; 0: the backend chooses
}

// Lister is implemented by backends that can list their volumes.
type Lister interface {
	// ListVolumes returns one page in a stable order and the token of the next page ("" after
	// the last). Backends that implement Attacher fill Volume.Nodes. Kind Stale: the listing
	// cannot continue from the token.
	ListVolumes(ctx context.Context, page Page) ([]Volume, string, error)
}

// SnapshotFilter narrows a listing of snapshots; empty fields match all.
type SnapshotFilter struct {
	SnapshotID string
	VolumeID   string
}

// SnapshotLister is implemented by backends that can list their snapshots.
type SnapshotLister interface {
	// ListSnapshots returns one page; see Lister.ListVolumes. A filter that matches no
	// snapshot gives an empty page, not NotFound.
	ListSnapshots(ctx context.Context, filter SnapshotFilter, page Page) ([]Snapshot, string, error)
}

// Capacity is the space for new volumes.
type Capacity struct {
	Available Size // the sum of the sizes of new volumes that fit
	// MaxVolumeSize and MinVolumeSize bound the size of one volume; zero: unknown.
	MaxVolumeSize Size
	MinVolumeSize Size
}

// CapacityRequest selects the volumes for which Capacity returns the space: those of one
// StorageClass in one topology.
type CapacityRequest struct {
	Parameters map[string]string
	Accesses   []Access
	Topology   Topology // empty: anywhere
}

// CapacityReporter is implemented by backends that know their free space (CSI v1.13,
// GetCapacity).
type CapacityReporter interface {
	// Capacity returns the space for new volumes that fit the request.
	Capacity(ctx context.Context, req CapacityRequest) (Capacity, error)
}

// Modifier is implemented by backends that can change the mutable parameters (volume type,
// QoS) of an existing volume.
type Modifier interface {
	// Modify applies the parameters, and returns after reading them back. Kind Invalid: a
	// parameter is unknown or impossible, and none was applied (CSI v1.13,
	// ControllerModifyVolume errors).
	Modify(ctx context.Context, id string, parameters map[string]string) error
}

// Impairment is the severity of a Condition (CSI v1.13, VolumeHealthErrorType).
type Impairment uint8

// The impairments of the CSI specification.
const (
	ImpairmentDegraded     Impairment = iota + 1 // usable with a defect
	ImpairmentInaccessible                       // not usable from any node
	ImpairmentDataLoss                           // data is lost, or probably lost
)

// Condition is one defect of a volume.
type Condition struct {
	Impairment Impairment
	Reason     string // CamelCase, for programs; unique per volume together with Impairment
	Message    string // for a person: the defect and the next step
}

// HealthReporter is implemented by backends that can report the defects of a volume.
type HealthReporter interface {
	// Health returns the known defects of a volume. Kind NotFound.
	Health(ctx context.Context, id string) ([]Condition, error)
}

// Health lists the defects of one volume.
type Health struct {
	ID         string
	Conditions []Condition
}

// HealthLister is implemented by backends that can report the defects of all their volumes
// with about as many API calls as a listing takes.
type HealthLister interface {
	HealthReporter

	// ListHealth returns the volumes of one page that have defects, with the conditions that
	// Health returns, and the token of the next page ("" after the last). A page has at most
	// page.Max volumes; an empty page is not necessarily the last. Kind Stale: the listing
	// cannot continue from the token.
	ListHealth(ctx context.Context, page Page) ([]Health, string, error)
}

// HealthChecker is implemented by backends, and by connectors that can check whether they
// work.
type HealthChecker interface {
	// CheckHealth checks that requests can be served (storage system reachable,
	// credentials accepted, directory writable). Every CSI Probe calls it, so it must be
	// cheap. Kind InProgress: the backend is still starting and needs no restart.
	CheckHealth(ctx context.Context) error
}
