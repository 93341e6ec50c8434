package cinder

import (
	"cmp"
	"context"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/growvol/growvol/pkg/operation"

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
	// known are the ids of the volumes of the name that Cinder is known to have.
	// While there are any, or a request may still come late, no error is final.
	known map[string]bool
}

func (b *Backend) create(ctx context.Context, req volume.CreateRequest) (volume.Volume, error) {
	seen, err := b.recentLookUp(ctx, req)
	if err != nil {
		return volume.Volume{}, err
	}
	k := newCreation(b, req, seen)
	v, err := k.run(ctx, seen.namesakes)
	if err != nil {
		return volume.Volume{}, k.answer(err)
	}
	b.attempts.end(req.Name)
	b.dropCopy(k.sourceID(), v.ID)
	b.settle(v.ID, k.cloud.Name())
	out := b.volume(v)
	out.VolumeContext = k.want.context // Cinder does not keep it; the PersistentVolume does
	out.Encrypted = req.Encrypted
	return out, nil
}

func newCreation(b *Backend, req volume.CreateRequest, seen lookup) *creation {
	k := &creation{Backend: b, req: req, cloud: seen.cloud, known: make(map[string]bool)}
	for _, id := range seen.ids() {
		k.known[id] = true
	}
	return k
}

// Abandon implements volume.Abandoner.
func (b *Backend) Abandon(ctx context.Context, req volume.CreateRequest, cause error) error {
	seen, err := b.recentLookUp(ctx, req)
	if err != nil {
		return err
	}
	k := newCreation(b, req, seen)
	if !seen.found {
		if err := k.discardLeftovers(ctx, seen.failed); err != nil {
			b.log.WarnContext(ctx, "what failed creations have left could not be removed", "name", req.Name, "error", err)
		}
	}
	return k.answer(cause)
}

// run returns the volume of the name, or makes it. The request is judged after
// the lookup: classes, zones, types, sources and permissions can have changed
// since the volume was made.
func (k *creation) run(ctx context.Context, n namesakes) (cloud.Volume, error) {
	if !n.found {
		if err := k.discardLeftovers(ctx, n.failed); err != nil {
			return cloud.Volume{}, err
		}
	}
	if err := k.readParameters(); err != nil {
		return cloud.Volume{}, err
	}
	if n.found {
		k.accepted(n.best)
		k.place.allowed = k.allowedZones(k.req)
		return k.existing(ctx, n.best)
	}
	var err error
	if k.place, err = k.Backend.place(ctx, k.cloud, k.want, k.req); err != nil {
		return cloud.Volume{}, err
	}
	return k.fresh(ctx)
}

// readParameters reads what the classes ask for.
func (k *creation) readParameters() error {
	var err error
	if k.want, err = k.parameters(k.req.Parameters); err != nil {
		return err
	}
	if k.req.Encrypted {
		k.want.metadata[metaEncrypted] = "true"
	}
	change, err := mutable(k.req.MutableParameters)
	if change.volType != "" {
		k.want.volType = change.volType
	}
	maps.Copy(k.want.metadata, change.metadata)
	return err
}

// answer returns err as the call may answer it. It is the one place that
// decides whether an error is final. It must not be while a volume of the name
// exists or may still come to be: external-provisioner would let the claim go,
// or have the pod scheduled elsewhere, and nobody would remove the volume.
func (k *creation) answer(err error) error {
	if len(k.known) > 0 {
		return volume.NonFinal(err, "Cinder has a volume of this name ("+few(slices.Sorted(maps.Keys(k.known)))+")")
	}
	return k.attempts.answer(k.req.Name, err)
}

// fresh makes the volume, in the first zone that has room for it.
func (k *creation) fresh(ctx context.Context) (cloud.Volume, error) {
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
		order.AvailabilityZone = zone
		v, err = k.ask(ctx, order)
		if err == nil {
			k.accepted(v)
			v, err = k.finish(ctx, v)
		}
		// A refusal that came as an answer, such as that of the quota, holds in
		// every zone.
		if !volume.IsKind(err, volume.KindOutOfRange) || cloud.StatusCode(err) != 0 {
			return v, err
		}
		if i < len(k.place.zones)-1 {
			k.log.InfoContext(ctx, "no room for a volume in a zone; the next is tried", "name", k.req.Name, "zone", zone, "error", err)
		}
	}
	if k.place.allowed == nil {
		return v, err
	}
	return v, volume.Errorf(volume.KindExhausted, "no zone that the volume has to be reachable from (%s) has room for it: %w", few(k.place.allowed), err).
		WithRemedy("let the pod be scheduled to another zone, ask for less, or use another type")
}

// accepted says that Cinder has accepted the volume: what may still harm the copy
// waits for it, see copies. A backup stays locked to the end: Cinder refuses a
// second restore while it restores one.
func (k *creation) accepted(v cloud.Volume) {
	if k.want.metadata[metaBackup] != "" || cloud.BackupIDOf(v) != "" {
		return
	}
	if source := k.sourceID(); source != "" && !settled(v) {
		k.noteCopy(source, v.ID, copyVolume)
	}
	k.req.NotifyAccepted()
}

// sourceID is the id of the volume or snapshot that the volume is made from, if any.
func (k *creation) sourceID() string { return cmp.Or(k.req.Source.VolumeID, k.req.Source.SnapshotID) }

// order is what to ask Cinder for.
func (k *creation) order(ctx context.Context) (cloud.NewVolume, error) {
	order := cloud.NewVolume{
		Name: k.req.Name, Description: description, Size: int(k.req.Size / granule), VolumeType: k.want.volType, Metadata: k.want.metadata,
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
	order.SnapshotID, order.SourceVolID, order.BackupID = from.SnapshotID, from.SourceVolID, from.BackupID
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
	from.SourceVolID = source.VolumeID
	if source.SnapshotID == "" {
		return from, nil
	}
	_, err = c.Snapshot(ctx, source.SnapshotID)
	if err == nil {
		from.SnapshotID = source.SnapshotID
		return from, nil
	}
	if !volume.IsKind(err, volume.KindNotFound) {
		return from, err
	}
	if _, errBackup := c.Backup(ctx, source.SnapshotID); errBackup != nil {
		if volume.IsKind(errBackup, volume.KindNotFound) {
			return from, volume.Errorf(volume.KindNotFound, "neither a snapshot nor a backup has the id %s: %w", source.SnapshotID, err)
		}
		return from, errBackup
	}
	from.BackupID = source.SnapshotID
	return from, c.CheckFeature(ctx, cloud.FeatureBackupSource)
}

// readSource reads what a volume is made from. It returns nil if there is no
// source.
func readSource(ctx context.Context, c *cloud.Cloud, source volume.Source) error {
	if source.VolumeID != "" {
		_, err := c.Volume(ctx, source.VolumeID)
		return err
	}
	_, err := contentOf(ctx, c, source)
	return err
}

// lookAgain are the pauses before the lookups for a volume whose creation got
// no answer.
func lookAgain() []time.Duration {
	return []time.Duration{0, 300 * time.Millisecond, time.Second}
}

// ask asks Cinder for the volume. When the answer gets lost, the volume may be
// made all the same; then it is found by its name, here or by the next call,
// and no second one is asked for.
func (k *creation) ask(ctx context.Context, order cloud.NewVolume) (cloud.Volume, error) {
	v, err := k.cloud.CreateVolume(ctx, order)
	if err == nil {
		k.addMade(v.ID)
		return v, nil
	}
	wasDone := func() {}
	if cloud.MayBeDone(err) {
		wasDone = k.attempts.addLost(order.Name)
	}
	switch code := cloud.StatusCode(err); {
	case volume.IsKind(err, volume.KindNotFound) && order.VolumeType != "", volume.IsKind(err, volume.KindInvalid) && order.VolumeType != "":
		if _, errType := k.typeNamed(ctx, k.cloud, order.VolumeType); volume.IsKind(errType, volume.KindInvalid) {
			return v, errType
		}
		return v, err
	case !volume.IsKind(err, volume.KindUnavailable), code == http.StatusTooManyRequests, code == http.StatusServiceUnavailable:
		return v, err // it was not made
	}
	for _, pause := range lookAgain() {
		if operation.Sleep(ctx, pause) != nil {
			break
		}
		n, errFind := k.named(ctx, k.cloud, order.Name)
		switch {
		case errFind != nil:
		case n.found && k.marked(n.best): // another's is judged by the next call
			wasDone()
			k.addMade(n.best.ID)
			return n.best, nil
		case len(n.failed) > 0:
			wasDone()
			k.addMade(n.failed[0].ID)
			return n.failed[0], nil
		}
	}
	return v, err
}

func (k *creation) addMade(id string) {
	k.known[id] = true
	k.attempts.addMade(k.req.Name, id)
}
