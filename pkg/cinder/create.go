package cinder

import (
	"context"
	"maps"
	"net/http"
	"time"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/volume"
)

// Create implements volume.Backend.
func (b *Backend) Create(ctx context.Context, req volume.CreateRequest) (volume.Volume, error) {
	v, err := b.create(ctx, req)
	return v, volume.Wrap(err, "create volume", req.Name)
}

// Restore implements volume.Snapshotter. The source may also be a backup, which
// CSI knows as a snapshot like any other.
func (b *Backend) Restore(ctx context.Context, req volume.CreateRequest) (volume.Volume, error) {
	return b.Create(ctx, req)
}

// CloneVolume implements volume.Cloner.
func (b *Backend) CloneVolume(ctx context.Context, req volume.CreateRequest) (volume.Volume, error) {
	return b.Create(ctx, req)
}

// creation is one call's work.
type creation struct {
	*Backend
	cloud *cloud.Cloud
	want  wanted
	req   volume.CreateRequest
	place placement
}

func (b *Backend) create(ctx context.Context, req volume.CreateRequest) (volume.Volume, error) {
	k, err := b.newCreation(ctx, req)
	if err != nil {
		return volume.Volume{}, err
	}
	n, err := b.namedLately(ctx, k.cloud, req.Name)
	if err != nil {
		return volume.Volume{}, undecided(err)
	}
	var v cloud.Volume
	if n.found {
		v, err = k.existing(ctx, n.best)
	} else {
		v, err = k.fresh(ctx, n.failed)
	}
	if err != nil {
		return volume.Volume{}, err
	}
	b.settle(v.ID, k.cloud.Name())
	out := b.volume(v)
	out.Context = k.want.context // Cinder does not keep it; the PersistentVolume does
	out.Encrypted = req.Encrypted
	if b.ignoresZones() {
		// As in cinder-csi-plugin: the zones that the scheduler has in mind.
		out.Topology = req.Preferred
	}
	return out, nil
}

// newCreation reads what is asked for.
func (b *Backend) newCreation(ctx context.Context, req volume.CreateRequest) (creation, error) {
	k := creation{Backend: b, req: req}
	var err error
	if k.want, err = b.parameters(req.Parameters); err != nil {
		return k, err
	}
	if req.Encrypted {
		k.want.metadata[metaEncrypted] = "true"
	}
	volType, _, err := mutable(req.Mutable)
	if err != nil {
		return k, err
	}
	if volType != "" {
		k.want.volType = volType
	}
	if k.cloud, err = b.cloudFor(ctx, k.want, req.Source); err != nil {
		return k, err
	}
	k.place, err = b.place(ctx, k.cloud, k.want, req)
	return k, err
}

// cloudFor chooses the cloud of a new volume: the one named, or that of its
// source.
func (b *Backend) cloudFor(ctx context.Context, want wanted, source volume.Source) (*cloud.Cloud, error) {
	name := volume.SecretsFrom(ctx)[secretCloud]
	if name == "" {
		name = want.cloud
	}
	switch {
	case name != "":
		return b.clouds.Cloud(ctx, name)
	case source.VolumeID != "":
		return b.cloudOf(ctx, source.VolumeID)
	case source.SnapshotID != "":
		return b.locate(ctx, source.SnapshotID, func(ctx context.Context, c *cloud.Cloud) error {
			_, err := contentOf(ctx, c, source)
			return err
		})
	}
	return b.clouds.Cloud(ctx, "")
}

// fresh makes the volume, in the first zone that has room for it. What failed
// creations have left of it goes first.
func (k creation) fresh(ctx context.Context, leftovers []cloud.Volume) (cloud.Volume, error) {
	for _, v := range leftovers {
		if err := k.discard(ctx, v); err != nil {
			return v, volume.Errorf(volume.KindOf(err), "an earlier attempt has left the volume %s in the state %s, which could not be removed: %w", v.ID, v.Status, err)
		}
	}
	order, err := k.order(ctx)
	if err == nil && order.BackupID != "" {
		anywhere := k.req // a backup is in no zone
		anywhere.Source = volume.Source{}
		k.place, err = k.Backend.place(ctx, k.cloud, k.want, anywhere)
	}
	if err != nil {
		return cloud.Volume{}, err
	}
	var v cloud.Volume
	for i, zone := range k.place.zones {
		order.Zone = zone
		v, err = k.ask(ctx, order)
		if err == nil {
			v, err = k.finish(ctx, v, true)
		}
		// A refusal that came as an answer, such as that of the quota, holds in
		// every zone.
		if !volume.IsKind(err, volume.OutOfRange) || cloud.StatusCode(err) != 0 {
			return v, err
		}
		if i < len(k.place.zones)-1 {
			k.log.InfoContext(ctx, "no room for a volume in a zone; the next is tried", "name", k.req.Name, "zone", zone, "error", err)
		}
	}
	if k.place.allowed == nil {
		return v, err
	}
	return v, volume.Errorf(volume.Exhausted, "no zone that the volume has to be reachable from (%s) has room for it: %w", few(k.place.allowed), err).
		WithRemedy("let the pod be scheduled to another zone, ask for less, or use another type")
}

// order is what to ask Cinder for.
func (k creation) order(ctx context.Context) (cloud.NewVolume, error) {
	order := cloud.NewVolume{
		Name: k.req.Name, Description: description, SizeGiB: int(k.req.Size / granule), Type: k.want.volType, Metadata: k.want.metadata,
	}
	if len(k.want.near)+len(k.want.far) > 0 {
		var err error
		order.Hints = new(cloud.Hints)
		if order.Hints.SameHost, err = k.resolve(ctx, k.want.near); err != nil {
			return order, err
		}
		if order.Hints.DifferentHost, err = k.resolve(ctx, k.want.far); err != nil {
			return order, err
		}
	}
	from, err := contentOf(ctx, k.cloud, k.req.Source)
	order.SnapshotID, order.SourceVolumeID, order.BackupID = from.SnapshotID, from.SourceVolumeID, from.BackupID
	if order.BackupID != "" {
		order.Metadata[metaBackup] = order.BackupID
	}
	if err == nil {
		err = k.possible(ctx, from)
	}
	return order, err
}

// contentOf turns a source into Cinder's terms: what CSI knows as a snapshot may
// be a backup.
func contentOf(ctx context.Context, c *cloud.Cloud, source volume.Source) (from cloud.NewVolume, err error) {
	from.SourceVolumeID = source.VolumeID
	if source.SnapshotID == "" {
		return from, nil
	}
	_, err = c.Snapshot(ctx, source.SnapshotID)
	if err == nil {
		from.SnapshotID = source.SnapshotID
		return from, nil
	}
	if !volume.IsKind(err, volume.NotFound) {
		return from, err
	}
	if _, errBackup := c.Backup(ctx, source.SnapshotID); errBackup != nil {
		if volume.IsKind(errBackup, volume.NotFound) {
			return from, volume.Errorf(volume.NotFound, "neither a snapshot nor a backup has the id %s: %w", source.SnapshotID, err)
		}
		return from, errBackup
	}
	from.BackupID = source.SnapshotID
	return from, c.Supports(ctx, cloud.BackupSource)
}

// lookAgain are the pauses before the lookups for a volume whose creation got
// no answer.
func lookAgain() []time.Duration {
	return []time.Duration{0, 300 * time.Millisecond, time.Second}
}

// ask asks Cinder for the volume. When the answer gets lost, the volume may be
// made all the same; then it is found by its name, here or by the next call,
// and no second one is asked for.
func (k creation) ask(ctx context.Context, order cloud.NewVolume) (cloud.Volume, error) {
	v, err := k.cloud.CreateVolume(ctx, order)
	if err == nil {
		return v, nil
	}
	switch code := cloud.StatusCode(err); {
	case volume.IsKind(err, volume.NotFound) && order.Type != "", volume.IsKind(err, volume.Invalid) && order.Type != "":
		if _, errType := k.typeNamed(ctx, k.cloud, order.Type); volume.IsKind(errType, volume.Invalid) {
			return v, errType
		}
		return v, err
	case !volume.IsKind(err, volume.Unavailable), code == http.StatusTooManyRequests, code == http.StatusServiceUnavailable:
		return v, err // it was not made
	}
	for _, pause := range lookAgain() {
		if volume.Pause(ctx, pause) != nil {
			break
		}
		n, errFind := k.named(ctx, k.cloud, order.Name)
		switch {
		case errFind != nil:
		case n.found && k.marked(n.best): // another's is judged by the next call
			return n.best, nil
		case len(n.failed) > 0:
			return n.failed[0], nil
		}
	}
	return v, err
}

// finish waits until the volume is usable and is what was asked for. One that
// Cinder failed to make is removed, so that the retry starts clean; one that
// it made otherwise than demanded is, if this call has made it.
func (k creation) finish(ctx context.Context, v cloud.Volume, mine bool) (cloud.Volume, error) {
	v, err := k.await(ctx, k.cloud, v.ID, k.op(), func(v cloud.Volume) (bool, error) {
		return settled(v) || failed(v) || v.Status == stateDeleting, nil
	})
	if err != nil {
		return v, undecided(err)
	}
	var why error
	switch {
	case failed(v):
		r := k.reasonOf(ctx, k.cloud, v, volume.Internal)
		why = volume.Errorf(r.kind, "Cinder could not make the volume %s, which is in the state %s: %s", v.ID, v.Status, r.text).
			WithRemedy("see the reason; if it is for lack of room, ask for less or use another type or zone")
	case v.Status == stateDeleting:
		return v, volume.Errorf(volume.Unavailable, "the volume %s is being deleted while it is made", v.ID).WithRemedy("it will be retried")
	case !k.place.fits(v.Zone):
		why = volume.Errorf(volume.Exhausted, "Cinder made the volume %s in the zone %s, and it has to be reachable from %s", v.ID, v.Zone, few(k.place.allowed)).
			WithRemedy("a volume with a source is in the source's zone: schedule the pod there")
	case shared(k.req.Accesses) && !v.Multiattach:
		why = volume.Errorf(volume.Invalid, "the volume is to be used on several nodes, and %s of the type %s may not be", v.ID, v.Type).WithRemedy(remedyMultiattach)
	default:
		return v, undecided(k.mark(ctx, v))
	}
	if removable := mine || unmade(v) && k.marked(v); !removable {
		return v, why
	}
	if err := k.discard(ctx, v); err != nil {
		// Not a final error: after one nobody would come back for the volume.
		return v, volume.Errorf(volume.Unavailable, "%w; and it could not be removed: %s", why, err.Error()).
			WithRemedy("it will be retried, and removed then")
	}
	return v, why
}

// undecided is an error that keeps us from knowing what became of the volume,
// such as credentials that have run out. It must not be of a final kind: that
// tells external-provisioner that there is no volume, and when the claim goes,
// nobody removes it.
func undecided(err error) error {
	switch volume.KindOf(err) {
	case volume.Unauthenticated, volume.Denied, volume.Internal:
		if err != nil {
			return volume.Errorf(volume.Unavailable, "what has become of the volume cannot be told: %w", err)
		}
	default:
	}
	return err
}

// mark gives a volume that was made from a backup its metadata once more:
// cinder-backup replaces them by those of the volume that the backup was taken
// of, and without the mark it would not be one of this cluster. Whether that
// volume was encrypted must not stay either.
func (k creation) mark(ctx context.Context, v cloud.Volume) error {
	if v.BackupID == "" {
		return nil
	}
	metadata := maps.Clone(k.want.metadata)
	if encrypted(v) && !k.req.Encrypted {
		metadata[metaEncrypted] = "false"
	}
	for key, value := range metadata {
		if v.Metadata[key] != value {
			return k.cloud.SetVolumeMetadata(ctx, v.ID, metadata)
		}
	}
	return nil
}

// op names the work for the poller: how long it takes hangs on the source.
func (k creation) op() string {
	switch {
	case k.req.Source.VolumeID != "":
		return "clone"
	case k.req.Source.SnapshotID != "":
		return "restore"
	}
	return "create"
}

// discard deletes a volume and waits until it is gone.
func (k creation) discard(ctx context.Context, v cloud.Volume) error {
	if err := k.remove(ctx, k.cloud, v.ID); err != nil && !volume.IsKind(err, volume.NotFound) {
		return err
	}
	k.forget(v.ID)
	return nil
}
