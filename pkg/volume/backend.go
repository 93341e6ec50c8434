package volume

import "context"

// CreateRequest asks for a new volume.
type CreateRequest struct {
	Name              string            // idempotency key
	Size              Size              // resolved under the backend's Limits
	Range             Range             // the range as asked: an existing volume of this name fits if its size lies in it
	Source            Source            // for Restore and Clone
	Parameters        map[string]string // of the StorageClass, backend-specific
	MutableParameters map[string]string // mutable parameters (VolumeAttributesClass); only given to a Modifier
	Encrypted         bool              // the node encrypts the volume; kept as Volume.Encrypted
	Accesses          []Access          // how it will be used; already checked against AccessModes
	Requisite         []Topology        // must be reachable from at least one of these; empty: no demand
	Preferred         []Topology        // in order of preference
	// OnAccepted, unless nil, is called when the storage system has accepted the
	// copy of Source: from then on Source may be attached, detached, expanded
	// and deleted, and other copies of it may be asked for. A backend may call
	// it more than once, on the goroutine of the call, and never after it. One
	// that needs the source to the end does not call it.
	OnAccepted func()
}

// NotifyAccepted calls OnAccepted, if it is set.
func (r CreateRequest) NotifyAccepted() {
	if r.OnAccepted != nil {
		r.OnAccepted()
	}
}

// Backend is what every storage backend does. All methods are idempotent and
// convergent: they drive the world toward the asked state from whatever state
// an earlier, interrupted call has left. The caller holds the volume's lock.
//
// The secrets of a request are in the context (SecretsFrom).
//
// Errors are of type *Error with the kinds documented per method.
type Backend interface {
	// Limits returns the granule and bounds of volume sizes.
	Limits() Limits

	// AccessModes returns the modes that volumes of this backend can honor.
	AccessModes() []AccessMode

	// Find looks for the volume of the request's name in the place where the
	// request would have it made, whatever it was made of and whether or not it
	// is usable yet; it judges neither the volume nor the request. Its Source is
	// the one it was made from, also when that has gone since. Of no use to tell
	// whether a volume is gone for good; see Get for that. A lookup that could not
	// be made gives an error of a kind that is not Final.
	Find(ctx context.Context, req CreateRequest) (v Volume, found bool, err error)

	// Create makes an empty volume, or returns the one of that name when it
	// fits the request. The volume is usable when Create returns. Kinds:
	// AlreadyExists (the name is taken by a volume that does not fit), Invalid
	// (parameters), OutOfRange (no space, quota), Exhausted (none of the
	// requisite places can be served; CSI v1.13, CreateVolume errors).
	Create(ctx context.Context, req CreateRequest) (Volume, error)

	// Delete removes the volume; a volume that does not exist is a success.
	// It returns when the volume is really gone. Kind Precondition: in use, or
	// snapshots depend on it.
	Delete(ctx context.Context, id string) error

	// Get reads the volume. Kind NotFound: the backend says it is gone.
	Get(ctx context.Context, id string) (Volume, error)

	// Expand grows the volume to at least target bytes, online if it is in
	// use, and returns it as read back from the backend after the growth. A
	// volume that is already that large is left alone. An expansion that is
	// under way already is joined, not issued again. Expand never reports
	// success unless the size read back is at least target. Kinds: NotFound,
	// OutOfRange, InProgress, Unavailable, Deadline, Internal.
	Expand(ctx context.Context, id string, target Size) (Volume, error)
}

// Abandoner is implemented by backends where creations that failed or got no
// answer can leave something.
type Abandoner interface {
	// Abandon ends a creation that is refused with err before Create was called.
	// It removes what earlier creations of the name have left, and returns err, or
	// an error of a kind that is not Final while a volume of the name exists or
	// may come to be.
	Abandon(ctx context.Context, req CreateRequest, err error) error
}

// Snapshotter is implemented by backends that can take snapshots and make
// volumes from them.
type Snapshotter interface {
	// CreateSnapshot takes a snapshot of a volume, or returns the one of that
	// name when it is of the same volume. It returns when the snapshot is cut,
	// which may be before it is Ready; the caller keeps the first ID that it
	// gets for good. Kinds: NotFound (volume), AlreadyExists.
	CreateSnapshot(ctx context.Context, req SnapshotRequest) (Snapshot, error)
	// DeleteSnapshot removes a snapshot; one that does not exist is a success.
	DeleteSnapshot(ctx context.Context, id string) error
	// GetSnapshot reads a snapshot. Kind NotFound.
	GetSnapshot(ctx context.Context, id string) (Snapshot, error)
	// Restore is Create with the content of req.Source.SnapshotID. The volume
	// may be larger than the snapshot. A volume that was made already is
	// returned also when the snapshot has gone since. Kinds: as Create,
	// NotFound (snapshot).
	Restore(ctx context.Context, req CreateRequest) (Volume, error)
}

// SnapshotRequest asks for a snapshot.
type SnapshotRequest struct {
	Name       string // idempotency key
	VolumeID   string
	Parameters map[string]string
	// OnAccepted is as in CreateRequest, for VolumeID: the storage system has
	// accepted the snapshot.
	OnAccepted func()
}

// NotifyAccepted calls OnAccepted, if it is set.
func (r SnapshotRequest) NotifyAccepted() {
	if r.OnAccepted != nil {
		r.OnAccepted()
	}
}

// Cloner is implemented by backends that can make a volume from another.
type Cloner interface {
	// CloneVolume is Create with the content of req.Source.VolumeID, which may
	// be in use. The clone may be larger. A clone that was made already is
	// returned also when the source has grown or gone since. Kinds: as Create,
	// NotFound (source).
	CloneVolume(ctx context.Context, req CreateRequest) (Volume, error)
}

// Attacher is implemented by backends whose volumes must be attached to a
// node before the node can see them. Backends without it are reachable from
// the node directly.
type Attacher interface {
	// Attach makes the volume visible to the node and returns the publish
	// context for it. Kinds: NotFound (volume or node), Precondition (attached
	// elsewhere and not shareable), AlreadyExists (attached to this node with
	// other capabilities), Exhausted (no slot left).
	Attach(ctx context.Context, req AttachRequest) (map[string]string, error)
	// Detach undoes Attach and returns when the node cannot reach the volume
	// any more. An empty node means all nodes. A volume or node that does not
	// exist is a success.
	Detach(ctx context.Context, id, node string) error
}

// AttachRequest asks for a volume on a node.
type AttachRequest struct {
	ID       string
	Node     string
	Access   Access
	ReadOnly bool
}

// Page selects a part of a listing.
type Page struct {
	Token string // where to go on; empty: from the start
	Max   int    // at most so many entries; 0: as many as the backend likes
}

// Lister is implemented by backends that can enumerate their volumes.
type Lister interface {
	// ListVolumes returns one page in a stable order and the token of the next
	// ("" after the last). Backends that are also Attachers fill Volume.Nodes.
	// Kind Stale: the token is not of a listing of ours.
	ListVolumes(ctx context.Context, page Page) ([]Volume, string, error)
}

// SnapshotFilter narrows a listing of snapshots; empty fields match all.
type SnapshotFilter struct {
	SnapshotID string
	VolumeID   string
}

// SnapshotLister is implemented by backends that can enumerate snapshots.
type SnapshotLister interface {
	// ListSnapshots returns one page; see Lister.ListVolumes. A filter that
	// nothing matches gives an empty page, not NotFound.
	ListSnapshots(ctx context.Context, filter SnapshotFilter, page Page) ([]Snapshot, string, error)
}

// Capacity is the room left.
type Capacity struct {
	Available Size
	// Max and Min bound one volume; zero: not known.
	Max Size
	Min Size
}

// CapacityRequest asks for the room for volumes of a kind at a place.
type CapacityRequest struct {
	Parameters map[string]string
	Accesses   []Access
	Topology   Topology // empty: anywhere
}

// CapacityReporter is implemented by backends that know their free space.
type CapacityReporter interface {
	Capacity(ctx context.Context, req CapacityRequest) (Capacity, error)
}

// Modifier is implemented by backends that can change a volume's mutable
// parameters (retype, QoS) in place.
type Modifier interface {
	// Modify drives the volume to the parameters and returns when they were
	// read back. Kind Invalid: a parameter is unknown or impossible, and
	// nothing was applied (CSI v1.13, ControllerModifyVolume errors).
	Modify(ctx context.Context, id string, parameters map[string]string) error
}

// Impairment says how badly a volume is affected (CSI v1.13,
// VolumeHealthErrorType).
type Impairment uint8

// The impairments of the CSI specification.
const (
	ImpairmentDegraded     Impairment = iota + 1 // usable, but not as it should be
	ImpairmentInaccessible                       // not usable from any node
	ImpairmentDataLoss                           // data is lost, or that is strongly suspected
)

// Condition is something that is wrong with a volume.
type Condition struct {
	Impairment Impairment
	Reason     string // CamelCase, for machines; with Impairment unique per volume
	Message    string // for a person: what is wrong and what to do
}

// HealthReporter is implemented by backends that can tell what is wrong with a
// volume.
type HealthReporter interface {
	// Health returns the adverse conditions of a volume; none: nothing is known
	// to be wrong. Kind NotFound.
	Health(ctx context.Context, id string) ([]Condition, error)
}

// Health is what is wrong with one volume.
type Health struct {
	ID         string
	Conditions []Condition
}

// HealthLister is implemented by backends that can tell what is wrong with all
// of their volumes for about the price of listing them.
type HealthLister interface {
	HealthReporter

	// ListHealth returns the volumes of one page that have adverse conditions,
	// with the status and reason that Health returns, and the token of the next
	// page ("" after the last). A page has at most page.Max volumes. It may have
	// none and still not be the last. Kind Stale: the token is not of a listing
	// of ours.
	ListHealth(ctx context.Context, page Page) ([]Health, string, error)
}

// TopologyAware is implemented by backends whose volumes may be reachable from
// some nodes only.
type TopologyAware interface {
	// HasTopology reports whether volumes have a topology. It never changes.
	HasTopology() bool
}

// HealthChecker is implemented by backends that can tell early whether they
// work (reachable, credentials accepted, directory writable); it backs the
// CSI Probe. It must be cheap. Kind InProgress: the backend is still starting,
// and waits for something that comes by itself.
type HealthChecker interface {
	CheckHealth(ctx context.Context) error
}
