package cloud

import (
	"context"
	"fmt"
	"slices"

	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/snapshots"
	"github.com/gophercloud/gophercloud/v2/pagination"
)

// Snapshot is a snapshot as Cinder shows it. Its Size is the size of the volume at that time, in
// GiB.
type Snapshot = snapshots.Snapshot

// Snapshot reads a snapshot. Kind NotFound: the snapshot does not exist.
func (c *Cloud) Snapshot(ctx context.Context, id string) (Snapshot, error) {
	call := cinderCall("snapshot_get", "reading snapshot "+id, object{"snapshot", id})
	return readByID(ctx, c, call, func(client *serviceClient) (*Snapshot, error) {
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

// SnapshotPage selects a part of the project's snapshots. Marker is the id of the last snapshot of
// the previous page; empty means the first page. Limit is the largest number of snapshots; 0 means
// the limit of Cinder. VolumeID is the volume; empty means all volumes.
type SnapshotPage = snapshots.ListOpts

// Snapshots reads one page of the project's snapshots, oldest first, and the marker of the next
// ("" after the last). Kind Stale: the snapshot of the marker no longer exists.
func (c *Cloud) Snapshots(ctx context.Context, page SnapshotPage) (found []Snapshot, next string, err error) {
	page.Sort = oldestFirst
	return c.listSnapshots(ctx, "snapshots", page)
}

func (c *Cloud) listSnapshots(ctx context.Context, what string, opts snapshots.ListOpts) ([]Snapshot, string, error) {
	call := cinderCall("snapshot_list", "listing "+what, withID(object{"snapshot", opts.Marker})...)
	found, next, err := listPage[Snapshot](ctx, c, call, "snapshots", func(client *serviceClient) pagination.Pager {
		return snapshots.ListDetail(client, opts)
	})
	return found, next, markerError(err, opts.Marker)
}

// NewSnapshot describes the snapshot that CreateSnapshot creates. Force allows the snapshot of a
// volume in use. Clouds with microversion 3.66 (Xena) always allow that.
type NewSnapshot = snapshots.CreateOpts

// CreateSnapshot asks Cinder to create a snapshot, which it does asynchronously. CreateSnapshot
// never repeats the request when the answer is lost: the caller must look for the name first.
func (c *Cloud) CreateSnapshot(ctx context.Context, s NewSnapshot) (Snapshot, error) {
	what := fmt.Sprintf("taking snapshot %s of volume %s", s.Name, s.VolumeID)
	call := cinderCall("snapshot_create", what, object{"volume", s.VolumeID})
	if s.Force {
		call.prefers = snapshotInUseVersion
	}
	return runForObject(ctx, c, call, "snapshot", func(client *serviceClient) (*Snapshot, error) {
		opts := s
		opts.Force = s.Force && client.Microversion == "" // from 3.66 on Cinder refuses the flag
		return snapshots.Create(ctx, client, opts).Extract()
	})
}

// DeleteSnapshot asks Cinder to delete a snapshot, which it does asynchronously. Kinds:
// NotFound, Precondition (volumes depend on it).
func (c *Cloud) DeleteSnapshot(ctx context.Context, id string) error {
	call := cinderCall("snapshot_delete", "deleting snapshot "+id, object{"snapshot", id})
	return c.run(ctx, call, func(client *serviceClient) error { return snapshots.Delete(ctx, client, id).ExtractErr() })
}
