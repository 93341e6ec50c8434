package cloud

import (
	"context"
	"fmt"
	"slices"

	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/snapshots"
	"github.com/gophercloud/gophercloud/v2/pagination"
)

// Snapshot is a snapshot as Cinder shows it. Its Size is that of the volume when it was taken.
type Snapshot = snapshots.Snapshot

// Snapshot reads a snapshot. Kind NotFound: Cinder does not know it.
func (c *Cloud) Snapshot(ctx context.Context, id string) (Snapshot, error) {
	k := cinderCall("snapshot_get", "reading snapshot "+id, object{"snapshot", id})
	return get(ctx, c, k, func(client *serviceClient) (*Snapshot, error) {
		return snapshots.Get(ctx, client, id).Extract()
	})
}

// SnapshotsNamed returns the snapshots of exactly this name; Cinder allows several.
func (c *Cloud) SnapshotsNamed(ctx context.Context, name string) ([]Snapshot, error) {
	found, err := listAll(func(marker string) ([]Snapshot, string, error) {
		return c.listSnapshots(ctx, "snapshots named "+name, snapshots.ListOpts{Name: name, Marker: marker})
	})
	return slices.DeleteFunc(found, func(s Snapshot) bool { return s.Name != name }), err
}

// SnapshotPage selects a part of the project's snapshots: Marker is the id of the last snapshot of
// the page before, Limit the largest number, VolumeID the volume. The zero value of each selects
// all.
type SnapshotPage = snapshots.ListOpts

// Snapshots reads one page of the project's snapshots, oldest first, and the marker of the next
// ("" after the last). Kind Stale: the marker's snapshot is gone.
func (c *Cloud) Snapshots(ctx context.Context, page SnapshotPage) (found []Snapshot, next string, err error) {
	page.Sort = oldestFirst
	return c.listSnapshots(ctx, "snapshots", page)
}

func (c *Cloud) listSnapshots(ctx context.Context, what string, opts snapshots.ListOpts) ([]Snapshot, string, error) {
	k := cinderCall("snapshot_list", "listing "+what, withID(object{"snapshot", opts.Marker})...)
	found, next, err := listPage[Snapshot](ctx, c, k, "snapshots", func(client *serviceClient) pagination.Pager {
		return snapshots.ListDetail(client, opts)
	})
	return found, next, markerError(err, opts.Marker)
}

// NewSnapshot is what CreateSnapshot makes. Force takes the snapshot also of a volume in use. From
// 3.66 (Xena) on Cinder does so anyway; there Force makes no difference.
type NewSnapshot = snapshots.CreateOpts

// CreateSnapshot asks for a snapshot, which Cinder then takes on its own. The request is never
// repeated when the answer got lost: the caller looks for the name first.
func (c *Cloud) CreateSnapshot(ctx context.Context, s NewSnapshot) (Snapshot, error) {
	what := fmt.Sprintf("taking snapshot %s of volume %s", s.Name, s.VolumeID)
	k := cinderCall("snapshot_create", what, object{"volume", s.VolumeID})
	if s.Force {
		k.prefers = "3.66"
	}
	return fetch(ctx, c, k, "snapshot", func(client *serviceClient) (*Snapshot, error) {
		order := s
		order.Force = s.Force && client.Microversion == "" // from 3.66 on Cinder refuses the flag
		return snapshots.Create(ctx, client, order).Extract()
	})
}

// DeleteSnapshot asks for the deletion of a snapshot, which Cinder then does on its own. Kinds:
// NotFound, Precondition (volumes depend on it).
func (c *Cloud) DeleteSnapshot(ctx context.Context, id string) error {
	k := cinderCall("snapshot_delete", "deleting snapshot "+id, object{"snapshot", id})
	return c.run(ctx, k, func(client *serviceClient) error { return snapshots.Delete(ctx, client, id).ExtractErr() })
}
