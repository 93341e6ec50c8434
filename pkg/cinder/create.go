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

// Create implements volume.Backend: it returns the volume of the request's name, and creates it if
// necessary. It finds existing volumes of the name (find.go), checks the request (create_check.go),
// chooses the zone (zone.go), sends the request to Cinder, and waits until the volume is usable
// (create_finish.go).
func (b *Backend) Create(ctx context.Context, req volume.CreateRequest) (volume.Volume, error) {
	v, err := b.create(ctx, req)
	return v, volume.Wrap(err, "create volume", req.Name)
}

// Restore implements volume.Snapshotter. For CSI a backup is a snapshot too.
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
	zones zoneChoice
	// known has the ids of the volumes of this name that exist in Cinder. See answer.
	known map[string]bool
}

func (b *Backend) create(ctx context.Context, req volume.CreateRequest) (volume.Volume, error) {
	existing, err := b.cachedFind(ctx, req)
	if err != nil {
		return volume.Volume{}, err
	}
	k := newCreation(b, req, existing)
	v, err := k.useOrCreate(ctx, existing.match)
	if err != nil {
		return volume.Volume{}, k.answer(err)
	}
	b.attempts.End(req.Name)
	b.copies.Remove(k.sourceID(), v.ID)
	b.locator.Remember(v.ID, k.cloud.Name())
	out := b.toVolume(v)
	out.VolumeContext = k.want.Context // Cinder does not store it; the PersistentVolume does
	out.Encrypted = req.Encrypted
	return out, nil
}

func newCreation(b *Backend, req volume.CreateRequest, existing findResult) *creation {
	k := &creation{Backend: b, req: req, cloud: existing.cloud, known: make(map[string]bool)}
	for _, id := range existing.ids() {
		k.known[id] = true
	}
	return k
}

// Abandon implements volume.Abandoner.
func (b *Backend) Abandon(ctx context.Context, req volume.CreateRequest, cause error) error {
	existing, err := b.cachedFind(ctx, req)
	if err != nil {
		return err
	}
	k := newCreation(b, req, existing)
	if !existing.found {
		if err := k.removeLeftovers(ctx, existing.failed); err != nil {
			b.log.WarnContext(ctx, "cannot remove the volumes that failed creations left behind",
				"name", req.Name, "error", err)
		}
	}
	return k.answer(cause)
}

// useOrCreate returns the existing volume, or creates one. It checks the request only after the
// search for the name: classes, zones, types, sources and permissions may have changed since the
// volume was created.
func (k *creation) useOrCreate(ctx context.Context, existing match) (cloud.Volume, error) {
	if !existing.found {
		if err := k.removeLeftovers(ctx, existing.failed); err != nil {
			return cloud.Volume{}, err
		}
	}
	if err := k.readParameters(); err != nil {
		return cloud.Volume{}, err
	}
	if existing.found {
		k.notifyAccepted(existing.volume)
		k.zones.allowed = k.allowedZones(k.req)
		return k.useExisting(ctx, existing.volume)
	}
	var err error
	if k.zones, err = k.chooseZones(ctx, k.cloud, k.want, k.req); err != nil {
		return cloud.Volume{}, err
	}
	return k.createNew(ctx)
}

// readParameters reads the parameters of the StorageClass and the VolumeAttributesClass.
func (k *creation) readParameters() error {
	var err error
	if k.want, err = class.ParseStorage(k.req.Parameters, k.opts.ClusterID); err != nil {
		return err
	}
	if k.req.Encrypted {
		k.want.Metadata[metadata.Encrypted] = "true"
	}
	attributes, err := class.ParseAttributes(k.req.MutableParameters)
	k.want.Type = cmp.Or(attributes.Type, k.want.Type)
	maps.Copy(k.want.Metadata, attributes.Metadata)
	return err
}

// answer returns err in the form in which the call may return it: as a non-final error while a
// volume of the name exists or may still be created. After a final error external-provisioner gives
// up the claim, or Kubernetes schedules the pod to another zone, and no later call removes the
// volume.
func (k *creation) answer(err error) error {
	if len(k.known) > 0 {
		ids := message.JoinAtMost(slices.Sorted(maps.Keys(k.known)))
		return volume.NonFinal(err, "Cinder has a volume with this name ("+ids+")")
	}
	return k.attempts.Answer(k.req.Name, err)
}

// createNew creates the volume in the first zone that has space for it.
func (k *creation) createNew(ctx context.Context) (cloud.Volume, error) {
	opts, err := k.newVolumeOptions(ctx)
	if err == nil && opts.BackupID != "" {
		withoutSource := k.req // a backup is in no zone
		withoutSource.Source = volume.Source{}
		k.zones, err = k.chooseZones(ctx, k.cloud, k.want, withoutSource)
	}
	if err != nil {
		return cloud.Volume{}, err
	}
	var v cloud.Volume
	for i, zone := range k.zones.order {
		opts.AvailabilityZone = zone
		v, err = k.request(ctx, opts)
		if err == nil {
			k.notifyAccepted(v)
			v, err = k.finish(ctx, v)
		}
		// A refusal in Cinder's response itself, such as an exceeded quota, is the same for every zone.
		if !volume.IsKind(err, volume.KindOutOfRange) || cloud.StatusCode(err) != 0 {
			return v, err
		}
		if i < len(k.zones.order)-1 {
			k.log.InfoContext(ctx, "the zone has no space for the volume; trying the next zone",
				"name", k.req.Name, "zone", zone, "error", err)
		}
	}
	if k.zones.allowed == nil {
		return v, err
	}
	return v, volume.Errorf(volume.KindExhausted,
		"none of the zones that the request allows (%s) has space for the volume: %w",
		message.JoinAtMost(k.zones.allowed), err).
		WithRemedy("allow the pod to be scheduled to another zone, request a smaller volume, " +
			"or use another volume type in the StorageClass")
}

// notifyAccepted notifies the caller that Cinder has accepted the volume, so that the caller
// unlocks the source: operations that could harm the copy wait for it (package copies). A backup
// stays locked until the volume is complete: Cinder refuses a second restore while one is running.
func (k *creation) notifyAccepted(v cloud.Volume) {
	if k.want.Metadata[metadata.RestoredFrom] != "" || cloud.BackupIDOf(v) != "" {
		return
	}
	if source := k.sourceID(); source != "" && !state.IsSettled(v) {
		k.copies.Add(source, v.ID, copies.Volume)
	}
	k.req.NotifyAccepted()
}

// sourceID returns the id of the volume's source; empty: it has none.
func (k *creation) sourceID() string { return cmp.Or(k.req.Source.VolumeID, k.req.Source.SnapshotID) }

// newVolumeOptions returns the options of the request to Cinder, without the zone. It returns an
// error if no volume can meet the request.
func (k *creation) newVolumeOptions(ctx context.Context) (cloud.NewVolume, error) {
	opts := cloud.NewVolume{
		Name: k.req.Name, Description: metadata.Description, Size: int(k.req.Size / granularity),
		VolumeType: k.want.Type, Metadata: k.want.Metadata,
	}
	var err error
	if opts.SameHost, err = k.resolveIDs(ctx, class.ParamAffinity, k.want.Affinity); err != nil {
		return opts, err
	}
	if opts.DifferentHost, err = k.resolveIDs(ctx, class.ParamAntiAffinity, k.want.AntiAffinity); err != nil {
		return opts, err
	}
	source, err := readSource(ctx, k.cloud, k.req.Source)
	if err != nil {
		return opts, err
	}
	opts.SnapshotID, opts.SourceVolID, opts.BackupID = source.snapshotID, source.volumeID, source.backupID
	if source.backupID != "" {
		opts.Metadata[metadata.RestoredFrom] = source.backupID
	}
	return opts, k.checkFeasible(ctx, source)
}

// source is the source of a volume in Cinder's terms. At most one of the first three ids is set.
type source struct {
	volumeID, snapshotID, backupID string

	originID string // the source volume, or the volume of the snapshot; empty for a backup
}

// readSource finds out whether the source of a volume is a snapshot or a backup: CSI has one id for
// both. It does not read a source that is a volume. Kind NotFound: neither has the id.
func readSource(ctx context.Context, c *cloud.Cloud, from volume.Source) (source, error) {
	if from.SnapshotID == "" {
		return source{volumeID: from.VolumeID, originID: from.VolumeID}, nil
	}
	s, err := c.Snapshot(ctx, from.SnapshotID)
	if err == nil {
		return source{snapshotID: from.SnapshotID, originID: s.VolumeID}, nil
	}
	if !volume.IsKind(err, volume.KindNotFound) {
		return source{}, err
	}
	if _, errBackup := c.Backup(ctx, from.SnapshotID); errBackup != nil {
		if volume.IsKind(errBackup, volume.KindNotFound) {
			return source{}, volume.Errorf(volume.KindNotFound,
				"neither a snapshot nor a backup has the id %s: %w", from.SnapshotID, err)
		}
		return source{}, errBackup
	}
	return source{backupID: from.SnapshotID}, c.CheckFeature(ctx, cloud.FeatureBackupSource)
}

// checkSource returns an error if the source of a volume, if any, cannot be read.
func checkSource(ctx context.Context, c *cloud.Cloud, from volume.Source) error {
	if from.VolumeID != "" {
		_, err := c.Volume(ctx, from.VolumeID)
		return err
	}
	_, err := readSource(ctx, c, from)
	return err
}

// request asks Cinder for the volume. If the response is lost, Cinder may create the volume all the
// same: request, or the next call, finds that volume by its name and requests no second one.
func (k *creation) request(ctx context.Context, opts cloud.NewVolume) (cloud.Volume, error) {
	v, err := k.cloud.CreateVolume(ctx, opts)
	if err == nil {
		k.addMade(v.ID)
		return v, nil
	}
	if !cloud.MayBeDone(err) {
		return v, k.typeError(ctx, opts.VolumeType, err)
	}
	undoLost := k.attempts.AddLost(opts.Name)
	if !volume.IsKind(err, volume.KindUnavailable) || cloud.StatusCode(err) == http.StatusServiceUnavailable {
		return v, err // no time is left to find the volume, or Cinder refused the request
	}
	for _, pause := range []time.Duration{0, 300 * time.Millisecond, time.Second} {
		if operation.Sleep(ctx, pause) != nil {
			break
		}
		m, errFind := k.findByName(ctx, k.cloud, opts.Name)
		switch {
		case errFind != nil:
			continue
		case m.found && k.isOwn(m.volume): // the next call checks a volume that is not this cluster's
			v = m.volume
		case len(m.failed) > 0:
			v = m.failed[0]
		default:
			continue
		}
		undoLost()
		k.addMade(v.ID)
		return v, nil
	}
	return v, err
}

// typeError returns an error that names the volume types of the cloud if Cinder refused a request
// because it has no type of that name; else it returns cause.
func (k *creation) typeError(ctx context.Context, name string, cause error) error {
	if name == "" || !volume.IsKind(cause, volume.KindNotFound) && !volume.IsKind(cause, volume.KindInvalid) {
		return cause
	}
	if _, err := k.catalog.Type(ctx, k.cloud, name); volume.IsKind(err, volume.KindInvalid) {
		return err
	}
	return cause
}

// addMade records that Cinder has created a volume for this request.
func (k *creation) addMade(id string) {
	k.known[id] = true
	k.attempts.AddMade(k.req.Name, id)
}
