package cinder

import (
	"context"
	"fmt"
	"strings"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/cindercsi"
	"github.com/growvol/growvol/pkg/volume"
)

// Statuses of volumes (Cinder API, "Volumes (volumes)", table of statuses).
const (
	stateCreating       = "creating"
	stateAvailable      = "available"
	stateInUse          = "in-use"
	stateExtending      = "extending"
	stateRetyping       = "retyping"
	stateDeleting       = "deleting"
	stateMaintenance    = "maintenance"
	stateError          = "error"
	stateErrorExtending = "error_extending"
	stateErrorDeleting  = "error_deleting"
	stateErrorRestoring = "error_restoring"
)

// settled tells whether nothing is going on with the volume and nothing is
// wrong with it.
func settled(v cloud.Volume) bool { return v.Status == stateAvailable || v.Status == stateInUse }

// failed tells whether the volume is in one of the states that only a deletion
// or an administrator ends.
func failed(v cloud.Volume) bool { return strings.HasPrefix(v.Status, stateError) }

// awaitSettled waits for the end of whatever goes on with the volume: until it
// is settled, failed, or being deleted.
func (b *Backend) awaitSettled(ctx context.Context, c *cloud.Cloud, v cloud.Volume) (cloud.Volume, error) {
	if settled(v) || failed(v) || v.Status == stateDeleting {
		return v, nil
	}
	settledNow, err := b.await(ctx, c, v.ID, v.Status, func(v cloud.Volume) (bool, error) {
		return settled(v) || failed(v) || v.Status == stateDeleting, nil
	})
	if volume.IsKind(err, volume.KindDeadline) {
		return settledNow, volume.Errorf(volume.KindInProgress, "the volume is %s: %w", v.Status, err).
			WithRemedy("it will be retried; if the state lasts, see what in the cloud works on the volume")
	}
	return settledNow, err
}

// awaitGone waits until Cinder does not know the volume any more, or until it
// has changed its mind about the deletion.
func (b *Backend) awaitGone(ctx context.Context, c *cloud.Cloud, id string) (left cloud.Volume, gone bool, err error) {
	left, err = b.await(ctx, c, id, "delete", func(v cloud.Volume) (bool, error) { return v.Status != stateDeleting, nil })
	if volume.IsKind(err, volume.KindNotFound) {
		return cloud.Volume{}, true, nil
	}
	return left, false, err
}

// encrypted reports whether a volume was made for encryption on the node.
func encrypted(v cloud.Volume) bool { return v.Metadata[metaEncrypted] == "true" }

// volume turns a volume as Cinder shows it into the domain's terms. Its context
// is empty, because Cinder does not keep one (only that the node encrypts the
// volume is in the metadata); and PersistentVolumes that
// cinder-csi-plugin has made carry other keys, which must go on to fit. Where
// zones are ignored, a volume can be reached from everywhere.
func (b *Backend) volume(v cloud.Volume) volume.Volume {
	out := volume.Volume{
		ID: v.ID, Name: v.Name, Size: cloud.SizeOf(v), Source: source(v), AccessModes: singleNode(), Nodes: servers(v),
		Encrypted: encrypted(v),
	}
	if v.AvailabilityZone != "" && !b.ignoresZones() {
		out.Topology = []volume.Topology{{cindercsi.TopologyKey: cindercsi.ZoneLabel(v.AvailabilityZone)}}
	}
	if v.Multiattach {
		out.AccessModes = append(out.AccessModes, multiNode()...)
	}
	return out
}

// source tells what a volume was made from.
func source(v cloud.Volume) volume.Source {
	switch {
	case v.SnapshotID != "":
		return volume.Source{SnapshotID: v.SnapshotID}
	case cloud.BackupIDOf(v) != "":
		return volume.Source{SnapshotID: cloud.BackupIDOf(v)}
	}
	return volume.Source{VolumeID: v.SourceVolID}
}

// servers are the ids of the servers that have the volume.
func servers(v cloud.Volume) []string {
	var ids []string
	for _, a := range v.Attachments {
		if a.ServerID != "" {
			ids = append(ids, a.ServerID)
		}
	}
	return ids
}

// few joins names, but not more of them than a message can bear.
func few(names []string) string {
	const most = 5
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}
