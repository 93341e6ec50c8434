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

// MetadataOf returns the metadata of b, or nil on clouds without microversion 3.43, which keep
// none.
func MetadataOf(b Backup) map[string]string {
	if b.Metadata == nil {
		return nil
	}
	return *b.Metadata
}

// Backup reads a backup. Kind NotFound: the backup does not exist, or the cloud offers no backups.
func (c *Cloud) Backup(ctx context.Context, id string) (Backup, error) {
	call := cinderCall("backup_get", "reading backup "+id, object{"backup", id})
	call.prefers = backupMetadataVersion
	b, err := readByID(ctx, c, call, func(client *serviceClient) (*Backup, error) {
		return backups.Get(ctx, client, id).Extract()
	})
	return b, c.explainMissingBackups(ctx, err)
}

// ForbidsBackups reports whether the cloud forbids the user to read any backup, so that a 403 does
// not prove that the backup exists. readErr is the error of Cloud.Backup; ForbidsBackups returns
// false unless it is of kind Denied. Cinder itself finds the backup before it checks the
// permission, but a cloud can also check first: then it answers 403 for an id that does not exist,
// too.
func (c *Cloud) ForbidsBackups(ctx context.Context, readErr error) bool {
	if !volume.IsKind(readErr, volume.KindDenied) {
		return false
	}
	_, err := c.Backup(ctx, "00000000-0000-4000-8000-000000000000") // no object has this id
	return volume.IsKind(err, volume.KindDenied)
}

// BackupsNamed returns the backups of exactly this name; Cinder allows several.
func (c *Cloud) BackupsNamed(ctx context.Context, name string) ([]Backup, error) {
	found, err := listAll(func(marker string) ([]Backup, string, error) {
		return c.listBackups(ctx, "backups named "+name, backups.ListOpts{Name: name, Marker: marker})
	})
	return slices.DeleteFunc(found, func(b Backup) bool { return b.Name != name }), err
}

// BackupPage selects a part of the project's backups, in the same way as SnapshotPage.
type BackupPage = backups.ListOpts

// Backups reads one page of the project's backups, oldest first, and the marker of the next (""
// after the last). Kind Stale: the backup of the marker no longer exists.
func (c *Cloud) Backups(ctx context.Context, page BackupPage) (found []Backup, next string, err error) {
	page.Sort = oldestFirst
	return c.listBackups(ctx, "backups", page)
}

// detailOpts are backups.ListOpts for backups.ListDetail, whose own options lack the filters.
type detailOpts struct{ backups.ListOpts }

// ToBackupListDetailQuery implements backups.ListDetailOptsBuilder.
func (o detailOpts) ToBackupListDetailQuery() (string, error) { return o.ToBackupListQuery() }

func (c *Cloud) listBackups(ctx context.Context, what string, opts backups.ListOpts) ([]Backup, string, error) {
	call := cinderCall("backup_list", "listing "+what, withID(object{"backup", opts.Marker})...)
	call.prefers = backupMetadataVersion
	found, next, err := listPage[Backup](ctx, c, call, "backups", func(client *serviceClient) pagination.Pager {
		return backups.ListDetail(client, detailOpts{opts})
	})
	return found, next, markerError(c.explainMissingBackups(ctx, err), opts.Marker)
}

// explainMissingBackups changes err into kind NotFound if the cloud offers no backups at all. That
// is so if volumes can be listed at the same address, but the API knows neither the path of err nor
// that of the list of backups. The 404 of err alone does not prove it: another service could have
// sent it.
func (c *Cloud) explainMissingBackups(ctx context.Context, err error) error {
	if !isUnknownPath(err) {
		return err
	}
	if _, _, errVolumes := c.Volumes(ctx, VolumePage{Limit: 1}); errVolumes != nil {
		return err
	}
	call := cinderCall("backup_list", "listing backups")
	_, _, errList := listPage[Backup](ctx, c, call, "backups", func(client *serviceClient) pagination.Pager {
		return backups.List(client, nil)
	})
	if !isUnknownPath(errList) {
		return err
	}
	return volume.Errorf(volume.KindNotFound, "this cloud offers no backups: %w", err)
}

// NewBackup describes the backup that CreateBackup creates: of the volume VolumeID, or of its
// snapshot SnapshotID. Force allows the backup of a volume in use. AvailabilityZone needs
// microversion 3.51. CreateBackup omits Metadata on clouds without microversion 3.43.
type NewBackup = backups.CreateOpts

// CreateBackup asks Cinder to create a backup, which it does asynchronously. CreateBackup never
// repeats the request when the answer is lost: the caller must look for the name first.
func (c *Cloud) CreateBackup(ctx context.Context, b NewBackup) (Backup, error) {
	what := fmt.Sprintf("creating backup %s of volume %s", b.Name, b.VolumeID)
	call := cinderCall("backup_create", what, object{"volume", b.VolumeID})
	call.objects = append(call.objects, withID(object{"snapshot", b.SnapshotID})...)
	call.prefers = backupMetadataVersion
	if b.AvailabilityZone != "" {
		call.prefers, call.needs = "", featureBackupZone.need()
	}
	return runForObject(ctx, c, call, "backup", func(client *serviceClient) (*Backup, error) {
		opts := b
		if client.Microversion == "" {
			opts.Metadata = nil
		}
		return backups.Create(ctx, client, opts).Extract()
	})
}

// DeleteBackup asks Cinder to delete a backup, which it does asynchronously. Kinds:
// NotFound, Precondition (incremental backups depend on it).
func (c *Cloud) DeleteBackup(ctx context.Context, id string) error {
	call := cinderCall("backup_delete", "deleting backup "+id, object{"backup", id})
	return c.run(ctx, call, func(client *serviceClient) error { return backups.Delete(ctx, client, id).ExtractErr() })
}

// backupMetadata is the metadata that SetBackupMetadata sends: backups.UpdateOpts lacks the object
// around it.
type backupMetadata map[string]string

// ToBackupUpdateMap implements backups.UpdateOptsBuilder.
func (m backupMetadata) ToBackupUpdateMap() (map[string]any, error) {
	return map[string]any{"backup": map[string]any{"metadata": m}}, nil
}

// SetBackupMetadata replaces the metadata of a backup. Kind Unsupported: the cloud
// does not have microversion 3.43.
func (c *Cloud) SetBackupMetadata(ctx context.Context, id string, metadata map[string]string) error {
	call := cinderCall("backup_metadata", "setting metadata of backup "+id, object{"backup", id})
	call.isRepeatable, call.needs = true, featureBackupMetadata.need()
	return c.run(ctx, call, func(client *serviceClient) error {
		return backups.Update(ctx, client, id, backupMetadata(metadata)).Err
	})
}
