package cloud

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/url"
	"strconv"
	"time"

	"github.com/growvol/growvol/pkg/volume"
)

// Backup is a backup as Cinder shows it.
type Backup struct {
	ID, Name, Status string
	VolumeID         string
	FailReason       string
	Size             int
	CreatedAt        time.Time
	Metadata         map[string]string // only clouds from 3.43 on have it
}

// MetadataOf returns the metadata of b; nil: the cloud keeps none (it is older than 3.43).
func MetadataOf(b Backup) map[string]string { return b.Metadata }

// backupVersion is the version to ask for: 3.43 added the metadata of a backup.
func (c *Cloud) backupVersion(ctx context.Context) microversion {
	return c.best(ctx, microversion{3, 43})
}

type wireBackup struct {
	ID         string            `json:"id"`
	Name       string            `json:"name"`
	Status     string            `json:"status"`
	VolumeID   string            `json:"volume_id"`
	FailReason string            `json:"fail_reason"`
	Size       int               `json:"size"`
	Created    stamp             `json:"created_at"`
	Metadata   map[string]string `json:"metadata"`
}

func (w *wireBackup) backup() Backup {
	return Backup{
		ID: w.ID, Name: w.Name, Status: w.Status, VolumeID: w.VolumeID, FailReason: w.FailReason,
		Size: w.Size, CreatedAt: time.Time(w.Created), Metadata: w.Metadata,
	}
}

// Backup reads a backup. Kind NotFound: Cinder does not know it, or offers no
// backups.
func (c *Cloud) Backup(ctx context.Context, id string) (Backup, error) {
	if !known(id) {
		return Backup{}, unknown("backup", id)
	}
	var answer struct {
		Backup wireBackup `json:"backup"`
	}
	k := call{
		service: blockStorage, name: "backup_get", what: "reading backup " + id, objects: []string{id},
		method: "GET", path: "backups/" + id, into: &answer, key: "backup", version: c.backupVersion(ctx),
	}
	if err := c.do(ctx, k); err != nil {
		return Backup{}, c.noBackups(ctx, err)
	}
	return answer.Backup.backup(), describes(k, answer.Backup.ID, id)
}

// ForbidsBackups reports whether refused, with which the reading of a backup
// ended, is Cinder's refusal of every backup (kind Denied), whether it exists or
// not. Cinder looks for the backup before it judges the permission, so there a
// 403 says that the backup exists; others judge first.
func (c *Cloud) ForbidsBackups(ctx context.Context, refused error) bool {
	if !volume.IsKind(refused, volume.KindDenied) {
		return false
	}
	_, err := c.Backup(ctx, randomID())
	return volume.IsKind(err, volume.KindDenied)
}

// randomID is an id that nothing has.
func randomID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// BackupsNamed returns the backups of that very name; Cinder allows several.
func (c *Cloud) BackupsNamed(ctx context.Context, name string) ([]Backup, error) {
	var found []Backup
	for marker := ""; ; {
		page, next, err := c.listBackups(ctx, "backups named "+name, url.Values{"name": {name}, "marker": {marker}})
		if err != nil {
			return nil, err
		}
		for _, b := range page {
			if b.Name == name {
				found = append(found, b)
			}
		}
		if next == "" || next == marker {
			return found, nil
		}
		marker = next
	}
}

// BackupPage selects a part of the project's backups.
type BackupPage struct {
	Marker   string // id of the last backup of the page before; empty: from the start
	Limit    int    // at most so many; 0: as many as Cinder gives
	VolumeID string // only those of one volume; empty: all
}

// Backups reads one page of the project's backups, oldest first, and the marker
// of the next ("" after the last). Kind Stale: the marker's backup is gone.
func (c *Cloud) Backups(ctx context.Context, page BackupPage) (bs []Backup, next string, err error) {
	params := url.Values{"marker": {page.Marker}, "volume_id": {page.VolumeID}, "sort": {"created_at:asc,id:asc"}}
	if page.Limit > 0 {
		params.Set("limit", strconv.Itoa(page.Limit))
	}
	return c.listBackups(ctx, "backups", params)
}

func (c *Cloud) listBackups(ctx context.Context, what string, params url.Values) ([]Backup, string, error) {
	var answer struct {
		Backups []wireBackup `json:"backups"`
		Links   []link       `json:"backups_links"`
	}
	err := c.do(ctx, call{
		service: blockStorage, name: "backup_list", what: "listing " + what, objects: params["marker"],
		method: "GET", path: query("backups/detail", params), into: &answer, key: "backups", version: c.backupVersion(ctx),
	})
	if err != nil {
		return nil, "", stale(c.noBackups(ctx, err), params.Get("marker"))
	}
	bs := make([]Backup, len(answer.Backups))
	for i := range answer.Backups {
		bs[i] = answer.Backups[i].backup()
	}
	if more(answer.Links) && len(bs) > 0 {
		return bs, bs[len(bs)-1].ID, nil
	}
	return bs, "", nil
}

// noBackups turns err into kind NotFound if the cloud offers no backups at all:
// Cinder, which lists volumes at the same address, has neither of their paths.
// The 404 alone does not say so: another service answers the same.
func (c *Cloud) noBackups(ctx context.Context, err error) error {
	if !isNoRoute(err) {
		return err
	}
	if _, _, errVolumes := c.Volumes(ctx, VolumePage{Limit: 1}); errVolumes != nil {
		return err
	}
	errPath := c.do(ctx, call{service: blockStorage, name: "backup_list", what: "listing backups", method: "GET", path: "backups"})
	if !isNoRoute(errPath) {
		return err
	}
	return volume.Errorf(volume.KindNotFound, "this cloud offers no backups: %w", err)
}

// NewBackup is what CreateBackup makes.
type NewBackup struct {
	Name, Description string
	VolumeID          string
	SnapshotID        string // of that volume; empty: the volume itself
	AvailabilityZone  string // empty: the cloud's choice; others need 3.51
	Force             bool   // also of a volume in use
	Incremental       bool
	Metadata          map[string]string // left out on clouds before 3.43
}

// CreateBackup asks for a backup, which Cinder then makes on its own. It is
// never repeated when the answer got lost: look for the name first.
func (c *Cloud) CreateBackup(ctx context.Context, b NewBackup) (Backup, error) {
	if !known(b.VolumeID) {
		return Backup{}, unknown("volume", b.VolumeID)
	}
	request := map[string]any{
		"volume_id": b.VolumeID, "name": b.Name, "description": b.Description, "force": b.Force, "incremental": b.Incremental,
	}
	if b.SnapshotID != "" {
		request["snapshot_id"] = b.SnapshotID
	}
	var answer struct {
		Backup wireBackup `json:"backup"`
	}
	k := call{
		service: blockStorage, name: "backup_create", what: fmt.Sprintf("making backup %s of volume %s", b.Name, b.VolumeID),
		method: "POST", path: "backups", body: map[string]any{"backup": request}, into: &answer, key: "backup", ok: []int{200, 202},
		objects: []string{b.VolumeID, b.SnapshotID},
	}
	if k.version = c.backupVersion(ctx); !k.version.isZero() && len(b.Metadata) > 0 {
		request["metadata"] = b.Metadata
	}
	if b.AvailabilityZone != "" {
		request["availability_zone"] = b.AvailabilityZone
		k.needs = need{"making a backup in another zone", blockStorage, microversion{3, 51}, "leave out the zone"}
	}
	err := c.do(ctx, k)
	return answer.Backup.backup(), err
}

// DeleteBackup asks for the deletion of a backup, which Cinder then does on its
// own. Kinds: NotFound, Precondition (incremental backups depend on it).
func (c *Cloud) DeleteBackup(ctx context.Context, id string) error {
	if !known(id) {
		return unknown("backup", id)
	}
	return c.do(ctx, call{
		service: blockStorage, name: "backup_delete", what: "deleting backup " + id, method: "DELETE", path: "backups/" + id, objects: []string{id},
	})
}

// SetBackupMetadata replaces the metadata of a backup. Kind Unsupported: the
// cloud is older than 3.43 and keeps none.
func (c *Cloud) SetBackupMetadata(ctx context.Context, id string, metadata map[string]string) error {
	if !known(id) {
		return unknown("backup", id)
	}
	return c.do(ctx, call{
		service: blockStorage, name: "backup_metadata", what: "setting metadata of backup " + id, method: "PUT", path: "backups/" + id, objects: []string{id},
		body: map[string]any{"backup": map[string]any{"metadata": metadata}}, ok: []int{200}, repeatable: true,
		needs: need{"setting metadata of a backup", blockStorage, microversion{3, 43}, ""},
	})
}
