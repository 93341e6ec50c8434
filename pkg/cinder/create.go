package cinder

import (
	"cmp"
	"context"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/growvol/growvol/pkg/cinder/internal/class"
	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/cinder/internal/copies"
	"github.com/growvol/growvol/pkg/cinder/internal/message"
	"github.com/growvol/growvol/pkg/cinder/internal/metadata"
	"github.com/growvol/growvol/pkg/cinder/internal/state"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// Create implements volume.Backend: it returns the volume of the request's name, which it creates
// if necessary. It looks for the name first (find.go), then judges the request (create_check.go,
// zone.go), asks Cinder, and waits until the volume is usable (create_finish.go).
func (b *Backend) Create(ctx context.Context, req volume.CreateRequest) (volume.Volume, error) {
	v, err := b.create(ctx, req)
	return v, volume.Wrap(err, "create volume", req.Name)
}

// Restore implements volume.Snapshotter. The source may also be a backup, which CSI knows as a
// snapshot.
func (b *Backend) Restore(ctx context.Context, req volume.CreateRequest) (volume.Volume, error) {
	return b.Create(ctx, req)
}

// CloneVolume implements volume.Cloner.
func (b *Backend) CloneVolume(ctx context.Context, req volume.CreateRequest) (volume.Volume, error) {
	return b.Create(ctx, req)
}

// creation is one call of Create or Abandon.
type creation struct {
	*Backend
	cloud *cloud.Cloud
	want  class.Storage
	req   volume.CreateRequest
	place placement
	// known are the ids of the volumes of the name that Cinder is known to have. While there are any,
	// or a request may still be carried out late, no error is final.
	known map[string]bool
}

func (b *Backend) create(ctx context.Context, req volume.CreateRequest) (volume.Volume, error) {
	seen, err := b.cachedLookUp(ctx, req)
	if err != nil {
		return volume.Volume{}, err
	}
	k := newCreation(b, req, seen)
	v, err := k.run(ctx, seen.sameName)
	if err != nil {
		return volume.Volume{}, k.answer(err)
	}
	b.attempts.End(req.Name)
	b.copies.Remove(k.sourceID(), v.ID)
	b.locator.Remember(v.ID, k.cloud.Name())
	out := b.volume(v)
	out.VolumeContext = k.want.Context // Cinder does not keep it; the PersistentVolume does
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
	seen, err := b.cachedLookUp(ctx, req)
	if err != nil {
		return err
	}
	k := newCreation(b, req, seen)
	if !seen.found {
		if err := k.removeLeftovers(ctx, seen.failed); err != nil {
			b.log.WarnContext(ctx, "could not remove the volumes that failed creations left behind",
				"name", req.Name, "error", err)
		}
	}
	return k.answer(cause)
}

// run returns the volume of the name, or creates it. It judges the request after the lookup:
// classes, zones, types, sources and permissions may have changed since the volume was created.
func (k *creation) run(ctx context.Context, n sameName) (cloud.Volume, error) {
	if !n.found {
		if err := k.removeLeftovers(ctx, n.failed); err != nil {
			return cloud.Volume{}, err
		}
	}
	if err := k.readParameters(); err != nil {
		return cloud.Volume{}, err
	}
	if n.found {
		k.notifyAccepted(n.best)
		k.place.allowed = k.allowedZones(k.req)
		return k.useExisting(ctx, n.best)
	}
	var err error
	if k.place, err = k.Backend.place(ctx, k.cloud, k.want, k.req); err != nil {
		return cloud.Volume{}, err
	}
	return k.createNew(ctx)
}

// readParameters reads what the classes ask for.
func (k *creation) readParameters() error {
	var err error
	if k.want, err = class.ParseStorage(k.req.Parameters, k.opts.ClusterID); err != nil {
		return err
	}
	if k.req.Encrypted {
		k.want.Metadata[metadata.Encrypted] = "true"
	}
	change, err := class.ParseAttributes(k.req.MutableParameters)
	k.want.Type = cmp.Or(change.Type, k.want.Type)
	maps.Copy(k.want.Metadata, change.Metadata)
	return err
}

// answer returns err as the call may return it. It is the only place that decides whether an error
// is final. An error must not be final while a volume of the name exists or may still be created:
// external-provisioner would give up the claim, or have the pod scheduled elsewhere, and nobody
// would remove the volume.
func (k *creation) answer(err error) error {
	if len(k.known) > 0 {
		ids := message.JoinAtMost(slices.Sorted(maps.Keys(k.known)))
		return volume.NonFinal(err, "Cinder has a volume of this name ("+ids+")")
	}
	return k.attempts.Answer(k.req.Name, err)
}

// createNew creates the volume in the first zone that has space for it.
func (k *creation) createNew(ctx context.Context) (cloud.Volume, error) {
	order, err := k.order(ctx)
	if err == nil && order.BackupID != "" {
		withoutSource := k.req // a backup is in no zone
		withoutSource.Source = volume.Source{}
		k.place, err = k.Backend.place(ctx, k.cloud, k.want, withoutSource)
	}
	if err != nil {
		return cloud.Volume{}, err
	}
	var v cloud.Volume
	for i, zone := range k.place.zones {
		order.AvailabilityZone = zone
		v, err = k.request(ctx, order)
		if err == nil {
			k.notifyAccepted(v)
			v, err = k.finish(ctx, v)
		}
		// A refusal in Cinder's answer, such as that of the quota, is the same for every zone.
		if !volume.IsKind(err, volume.KindOutOfRange) || cloud.StatusCode(err) != 0 {
			return v, err
		}
		if i < len(k.place.zones)-1 {
			k.log.InfoContext(ctx, "a zone has no space for a volume; trying the next zone",
				"name", k.req.Name, "zone", zone, "error", err)
		}
	}
	if k.place.allowed == nil {
		return v, err
	}
	return v, volume.Errorf(volume.KindExhausted,
		"no zone that the volume must be reachable from (%s) has space for it: %w", message.JoinAtMost(k.place.allowed), err).
		WithRemedy("let the pod be scheduled to another zone, ask for less, or use another type")
}

// notifyAccepted tells the caller that Cinder has accepted the volume, so that it unlocks the
// source: what could still harm the copy waits for it, see package copies. A backup stays locked to
// the end: Cinder refuses a second restore while one is running.
func (k *creation) notifyAccepted(v cloud.Volume) {
	if k.want.Metadata[metadata.RestoredFrom] != "" || cloud.BackupIDOf(v) != "" {
		return
	}
	if source := k.sourceID(); source != "" && !state.IsSettled(v) {
		k.copies.Add(source, v.ID, copies.Volume)
	}
	k.req.NotifyAccepted()
}

// sourceID returns the id of the volume or snapshot that the volume is made from, if any.
func (k *creation) sourceID() string { return cmp.Or(k.req.Source.VolumeID, k.req.Source.SnapshotID) }

// order returns what to ask Cinder for, or the error that says why the request is not possible.
func (k *creation) order(ctx context.Context) (cloud.NewVolume, error) {
	order := cloud.NewVolume{
		Name: k.req.Name, Description: metadata.Description, Size: int(k.req.Size / granularity),
		VolumeType: k.want.Type, Metadata: k.want.Metadata,
	}
	var err error
	if order.SameHost, err = k.resolveIDs(ctx, k.want.Affinity); err != nil {
		return order, err
	}
	if order.DifferentHost, err = k.resolveIDs(ctx, k.want.AntiAffinity); err != nil {
		return order, err
	}
	from, err := contentOf(ctx, k.cloud, k.req.Source)
	if err != nil {
		return order, err
	}
	order.SnapshotID, order.SourceVolID, order.BackupID = from.snapshotID, from.volumeID, from.backupID
	if from.backupID != "" {
		order.Metadata[metadata.RestoredFrom] = from.backupID
	}
	return order, k.checkPossible(ctx, from)
}

// content is what a volume is made from, in Cinder's terms. At most one of the first three is set.
type content struct {
	volumeID, snapshotID, backupID string

	originID string // of the source volume, or of the volume that the snapshot is of
}

// contentOf reads the source of a volume: what CSI knows as a snapshot may be a backup. It does not
// read a source that is a volume.
func contentOf(ctx context.Context, c *cloud.Cloud, source volume.Source) (content, error) {
	if source.SnapshotID == "" {
		return content{volumeID: source.VolumeID, originID: source.VolumeID}, nil
	}
	s, err := c.Snapshot(ctx, source.SnapshotID)
	if err == nil {
		return content{snapshotID: source.SnapshotID, originID: s.VolumeID}, nil
	}
	if !volume.IsKind(err, volume.KindNotFound) {
		return content{}, err
	}
	if _, errBackup := c.Backup(ctx, source.SnapshotID); errBackup != nil {
		if volume.IsKind(errBackup, volume.KindNotFound) {
			return content{}, volume.Errorf(volume.KindNotFound,
				"neither a snapshot nor a backup has the id %s: %w", source.SnapshotID, err)
		}
		return content{}, errBackup
	}
	return content{backupID: source.SnapshotID}, c.CheckFeature(ctx, cloud.FeatureBackupSource)
}

// checkSource returns an error if the source of a volume, if any, does not exist or cannot be read.
func checkSource(ctx context.Context, c *cloud.Cloud, source volume.Source) error {
	if source.VolumeID != "" {
		_, err := c.Volume(ctx, source.VolumeID)
		return err
	}
	_, err := contentOf(ctx, c, source)
	return err
}

// lookupPauses returns the pauses before the lookups for a volume whose creation got no answer.
func lookupPauses() []time.Duration {
	return []time.Duration{0, 300 * time.Millisecond, time.Second}
}

// request asks Cinder for the volume. If the answer is lost, Cinder may create the volume all the
// same; then request, or the next call, finds it by its name and asks for no second one.
func (k *creation) request(ctx context.Context, order cloud.NewVolume) (cloud.Volume, error) {
	v, err := k.cloud.CreateVolume(ctx, order)
	if err == nil {
		k.addMade(v.ID)
		return v, nil
	}
	if !cloud.MayBeDone(err) {
		return v, k.typeError(ctx, order.VolumeType, err)
	}
	undoLost := k.attempts.AddLost(order.Name)
	if !volume.IsKind(err, volume.KindUnavailable) || cloud.StatusCode(err) == http.StatusServiceUnavailable {
		return v, err // there is no time for a lookup, or Cinder refused the request
	}
	for _, pause := range lookupPauses() {
		if operation.Sleep(ctx, pause) != nil {
			break
		}
		n, errFind := k.findByName(ctx, k.cloud, order.Name)
		switch {
		case errFind != nil:
			continue
		case n.found && k.isOwn(n.best): // the next call judges one of another cluster
			v = n.best
		case len(n.failed) > 0:
			v = n.failed[0]
		default:
			continue
		}
		undoLost()
		k.addMade(v.ID)
		return v, nil
	}
	return v, err
}

// typeError returns the error of catalog.Type if that explains why Cinder refused a request, else
// cause.
func (k *creation) typeError(ctx context.Context, name string, cause error) error {
	if name == "" || !volume.IsKind(cause, volume.KindNotFound) && !volume.IsKind(cause, volume.KindInvalid) {
		return cause
	}
	if _, err := k.catalog.Type(ctx, k.cloud, name); volume.IsKind(err, volume.KindInvalid) {
		return err
	}
	return cause
}

func (k *creation) addMade(id string) {
	k.known[id] = true
	k.attempts.AddMade(k.req.Name, id)
}
