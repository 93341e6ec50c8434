package cloud

import (
	"context"
	"fmt"
	"slices"

	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/backups"
	"github.com/gophercloud/gophercloud/v2/pagination"

	"github.com/growvol/growvol/pkg/volume"
)

// Backup is a backup as Cinder shows it.
type Backup = backups.Backup

// MetadataOf returns the metadata of b; nil: the cloud keeps none (it is older than 3.43).
func MetadataOf(b Backup) map[string]string {
	if b.Metadata == nil {
		return nil
	}
	return *b.Metadata
}

// metadataVersion is the first microversion with the metadata of a backup.
const metadataVersion = "3.43"

// Backup reads a backup. Kind NotFound: Cinder does not know it, or offers no backups.
func (c *Cloud) Backup(ctx context.Context, id string) (Backup, error) {
	k := cinderCall("backup_get", "reading backup "+id, object{"backup", id})
	k.prefers = metadataVersion
	b, err := get(ctx, c, k, func(client *serviceClient) (*Backup, error) {
		return backups.Get(ctx, client, id).Extract()
	})
	return b, c.checkOffersBackups(ctx, err)
}

// ForbidsBackups reports whether refused, with which the reading of a backup ended, is Cinder's
// refusal of every backup (kind Denied), whether it exists or not. Cinder looks for the backup
// before it judges the permission, so there a 403 says that the backup exists; others judge first.
func (c *Cloud) ForbidsBackups(ctx context.Context, refused error) bool {
	if !volume.IsKind(refused, volume.KindDenied) {
		return false
	}
	_, err := c.Backup(ctx, "00000000-0000-4000-8000-000000000000") // an id that nothing has
	return volume.IsKind(err, volume.KindDenied)
}

// BackupsNamed returns the backups of exactly this name; Cinder allows several.
func (c *Cloud) BackupsNamed(ctx context.Context, name string) ([]Backup, error) {
	found, err := listAll(func(marker string) ([]Backup, string, error) {
		return c.listBackups(ctx, "backups named "+name, backups.ListOpts{Name: name, Marker: marker})
	})
	return slices.DeleteFunc(found, func(b Backup) bool { return b.Name != name }), err
}

// BackupPage selects a part of the project's backups, as SnapshotPage does of the snapshots.
type BackupPage = backups.ListOpts

// Backups reads one page of the project's backups, oldest first, and the marker of the next (""
// after the last). Kind Stale: the marker's backup is gone.
func (c *Cloud) Backups(ctx context.Context, page BackupPage) (found []Backup, next string, err error) {
	page.Sort = oldestFirst
	return c.listBackups(ctx, "backups", page)
}

// detailOpts are backups.ListOpts for backups.ListDetail, whose own options lack the filters.
type detailOpts struct{ backups.ListOpts }

// ToBackupListDetailQuery implements backups.ListDetailOptsBuilder.
func (o detailOpts) ToBackupListDetailQuery() (string, error) { return o.ToBackupListQuery() }

func (c *Cloud) listBackups(ctx context.Context, what string, opts backups.ListOpts) ([]Backup, string, error) {
	k := cinderCall("backup_list", "listing "+what, withID(object{"backup", opts.Marker})...)
	k.prefers = metadataVersion
	found, next, err := listPage[Backup](ctx, c, k, "backups", func(client *serviceClient) pagination.Pager {
		return backups.ListDetail(client, detailOpts{opts})
	})
	return found, next, markerError(c.checkOffersBackups(ctx, err), opts.Marker)
}

// checkOffersBackups turns err into kind NotFound if the cloud offers no backups at all: Cinder,
// which lists volumes at the same address, has neither of their paths. The 404 alone does not say
// so: another service answers the same.
func (c *Cloud) checkOffersBackups(ctx context.Context, err error) error {
	if !isUnknownPath(err) {
		return err
	}
	if _, _, errVolumes := c.Volumes(ctx, VolumePage{Limit: 1}); errVolumes != nil {
		return err
	}
	k := cinderCall("backup_list", "listing backups")
	_, _, errList := listPage[Backup](ctx, c, k, "backups", func(client *serviceClient) pagination.Pager {
		return backups.List(client, nil)
	})
	if !isUnknownPath(errList) {
		return err
	}
	return volume.Errorf(volume.KindNotFound, "this cloud offers no backups: %w", err)
}

// NewBackup is what CreateBackup makes: of a volume, or of the snapshot SnapshotID of that volume.
// Force: also of a volume in use. AvailabilityZone needs 3.51. Metadata is left out on clouds
// before 3.43.
type NewBackup = backups.CreateOpts

// CreateBackup asks for a backup, which Cinder then makes on its own. The request is never
// repeated when the answer got lost: the caller looks for the name first.
func (c *Cloud) CreateBackup(ctx context.Context, b NewBackup) (Backup, error) {
	what := fmt.Sprintf("making backup %s of volume %s", b.Name, b.VolumeID)
	k := cinderCall("backup_create", what, object{"volume", b.VolumeID})
	k.objects = append(k.objects, withID(object{"snapshot", b.SnapshotID})...)
	k.prefers = metadataVersion
	if b.AvailabilityZone != "" {
		k.prefers, k.needs = "", need{"making a backup in another zone", blockStorage, "3.51", "leave out the zone"}
	}
	return fetch(ctx, c, k, "backup", func(client *serviceClient) (*Backup, error) {
		order := b
		if client.Microversion == "" {
			order.Metadata = nil
		}
		return backups.Create(ctx, client, order).Extract()
	})
}

// DeleteBackup asks for the deletion of a backup, which Cinder then does on its own. Kinds:
// NotFound, Precondition (incremental backups depend on it).
func (c *Cloud) DeleteBackup(ctx context.Context, id string) error {
	k := cinderCall("backup_delete", "deleting backup "+id, object{"backup", id})
	return c.run(ctx, k, func(client *serviceClient) error { return backups.Delete(ctx, client, id).ExtractErr() })
}

// backupMetadata is the metadata that SetBackupMetadata sends: backups.UpdateOpts lacks the object
// around it.
type backupMetadata map[string]string

// ToBackupUpdateMap implements backups.UpdateOptsBuilder.
func (m backupMetadata) ToBackupUpdateMap() (map[string]any, error) {
	return map[string]any{"backup": map[string]any{"metadata": m}}, nil
}

// SetBackupMetadata replaces the metadata of a backup. Kind Unsupported: the cloud is older than
// 3.43 and keeps none.
func (c *Cloud) SetBackupMetadata(ctx context.Context, id string, metadata map[string]string) error {
	k := cinderCall("backup_metadata", "setting metadata of backup "+id, object{"backup", id})
	k.isRepeatable, k.needs = true, need{"setting metadata of a backup", blockStorage, metadataVersion, ""}
	return c.run(ctx, k, func(client *serviceClient) error {
		return backups.Update(ctx, client, id, backupMetadata(metadata)).Err
	})
}
