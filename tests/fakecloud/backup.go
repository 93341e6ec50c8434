package fakecloud

import (
	"maps"
	"net/http"
	"time"
)

// Backup is a backup as Cinder knows it.
type Backup struct {
	ID          string
	Name        string
	Description string
	Status      string
	FailReason  string
	VolumeID    string
	SnapshotID  string
	ParentID    string // of the backup it is the increment of
	Zone        string
	Size        int // GiB
	Metadata    map[string]string
}

type backup struct {
	Backup
	projectID        string
	created, updated time.Time
	source           Volume // as it was when it was backed up
}

// restore gives a volume what a backup has: the metadata it had are replaced by
// those of the volume that was backed up; a name it keeps.
func (b *backup) restore(v *volume) {
	v.Metadata = maps.Clone(b.source.Metadata)
	v.Metadata["src_backup_id"] = b.ID
	if v.Name == "" {
		v.Name, v.Description = b.source.Name, b.source.Description
	}
}

func (b *backup) set(status string) { b.Status, b.updated = status, now() }

// Backup returns a backup as it stands.
func (c *Cloud) Backup(id string) (Backup, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b, ok := c.backups[id]
	if !ok {
		return Backup{}, false
	}
	out := b.Backup
	out.Metadata = maps.Clone(out.Metadata)
	return out, true
}

func backupRoutes() []route {
	return []route{
		cinderRoute(http.MethodGet, "/backups", ListBackups, (*Cloud).listBackups),
		cinderRoute(http.MethodGet, "/backups/detail", ListBackupDetail, (*Cloud).listBackups),
		cinderRoute(http.MethodPost, "/backups", CreateBackup, (*Cloud).createBackup),
		cinderRoute(http.MethodGet, "/backups/{id}", GetBackup, (*Cloud).getBackup),
		cinderRoute(http.MethodDelete, "/backups/{id}", DeleteBackup, (*Cloud).deleteBackup),
		updateBackupRoute(),
		cinderRoute(http.MethodPost, "/backups/{id}/restore", RestoreBackup, (*Cloud).restoreBackup),
	}
}

func (c *Cloud) backupOf(x *exchange, id string) (*backup, *reply) {
	b := c.backups[id]
	if b == nil || (b.projectID != x.token.projectID() && !x.token.has("admin")) {
		return nil, faultf(http.StatusNotFound, "Backup %s could not be found.", id)
	}
	return b, nil
}

func (c *Cloud) backupSummary(x *exchange, b *backup) object {
	return object{"id": b.ID, "name": textOrNull(b.Name), "links": c.links(x, "backups", b.ID)}
}

func (c *Cloud) backupView(x *exchange, b *backup) object {
	view := c.backupSummary(x, b)
	maps.Copy(view, object{
		"status": b.Status, "size": b.Size, "object_count": 0, "availability_zone": textOrNull(b.Zone), "container": "backups",
		"created_at": timeOrNull(b.created), "updated_at": timeOrNull(b.updated), "description": textOrNull(b.Description),
		"fail_reason": textOrNull(b.FailReason), "volume_id": b.VolumeID, "is_incremental": b.ParentID != "", "has_dependent_backups": c.increments(b) > 0,
		"snapshot_id": textOrNull(b.SnapshotID), "data_timestamp": timeOrNull(b.created),
	})
	if x.version.since(43) {
		view["metadata"] = maps.Clone(b.Metadata)
	}
	if x.token.has("admin") && x.version.since(18) {
		view["os-backup-project-attr:project_id"] = b.projectID
	}
	return view
}

func (c *Cloud) increments(of *backup) int {
	n := 0
	for _, b := range c.backups {
		if b.ParentID == of.ID {
			n++
		}
	}
	return n
}

// source is what is backed up: a volume or one of its snapshots.
type backupSource struct {
	volume   *volume
	snapshot *snapshot
}

// mark shows that the source is busy, and returns how to undo that.
func (s backupSource) mark() (undo func()) {
	if s.snapshot != nil {
		s.snapshot.set(backingUp)
		return func() { s.snapshot.set(available) }
	}
	before := s.volume.Status
	s.volume.set(backingUp)
	return func() { s.volume.set(before) }
}

func (c *Cloud) backupSourceOf(x *exchange, in objectReader) (s backupSource, bad *reply) {
	if s.volume, bad = c.volumeOf(x, in.text("volume_id")); bad != nil {
		return s, bad
	}
	if id := in.text("snapshot_id"); id != "" {
		if s.snapshot, bad = c.snapshotOf(x, id); bad != nil {
			return s, bad
		}
		if s.snapshot.Status != available {
			return s, faultf(http.StatusBadRequest, "Invalid snapshot: Snapshot to be backed up must be available, but the current status is %q.", s.snapshot.Status)
		}
		return s, nil
	}
	force, _ := in.object["force"].(bool)
	switch {
	case s.volume.Status != available && s.volume.Status != inUse:
		return s, faultf(http.StatusBadRequest, "Invalid volume: Volume to be backed up must be available or in-use, but the current status is %q.", s.volume.Status)
	case s.volume.Status == inUse && !force:
		return s, fault(http.StatusBadRequest, "Invalid volume: Backing up an in-use volume must use the force flag.")
	}
	return s, nil
}

// parentOf finds the latest backup of the volume for an increment.
func (c *Cloud) parentOf(in objectReader, v *volume) (id string, bad *reply) {
	if incremental, _ := in.object["incremental"].(bool); !incremental {
		return "", nil
	}
	var latest *backup
	for _, b := range c.backups {
		if b.VolumeID == v.ID && (latest == nil || b.created.After(latest.created)) {
			latest = b
		}
	}
	switch {
	case latest == nil:
		return "", fault(http.StatusBadRequest, "Invalid backup: No backups available to do an incremental backup.")
	case latest.Status != available:
		return "", fault(http.StatusBadRequest, "Invalid backup: The parent backup must be available for incremental backup.")
	}
	return latest.ID, nil
}

func (c *Cloud) createBackup(x *exchange) *reply {
	in := objectReader{x.part("backup")}
	if bad := in.checkMetadata(); bad != nil {
		return bad
	}
	from, bad := c.backupSourceOf(x, in)
	if bad != nil {
		return bad
	}
	if bad := c.allowBackup(from.volume.Size); bad != nil {
		return bad
	}
	parent, bad := c.parentOf(in, from.volume)
	if bad != nil {
		return bad
	}
	b := &backup{
		Backup: Backup{
			ID: c.newID(), Name: in.text("name"), Description: in.text("description"), Status: creating, VolumeID: from.volume.ID,
			SnapshotID: in.text("snapshot_id"), ParentID: parent, Size: from.volume.Size, Metadata: map[string]string{},
		},
		projectID: from.volume.projectID, created: now(), source: from.volume.clone(),
	}
	if x.version.since(43) {
		b.Metadata = in.metadata()
	}
	if x.version.since(51) {
		b.Zone = in.text("availability_zone")
	}
	c.backups[b.ID] = b
	undo := from.mark()
	c.work(x, b.ID, func() {
		undo()
		if o := x.script.outcome; o == fails || o == refused {
			b.FailReason = "the backup driver failed"
			b.set(failedState)
			return
		}
		b.set(available)
	})
	return answer(http.StatusAccepted, object{"backup": c.backupSummary(x, b)})
}

func (c *Cloud) getBackup(x *exchange) *reply {
	b, bad := c.backupOf(x, x.values["id"])
	if bad != nil {
		return bad
	}
	return answer(http.StatusOK, object{"backup": c.backupView(x, b)})
}

func updateBackupRoute() route {
	r := cinderRoute(http.MethodPut, "/backups/{id}", UpdateBackup, (*Cloud).updateBackup)
	r.since = 9
	return r
}

// updateBackup renames a backup or, since 3.43, replaces its metadata, whatever
// state it is in.
func (c *Cloud) updateBackup(x *exchange) *reply {
	b, bad := c.backupOf(x, x.values["id"])
	if bad != nil {
		return bad
	}
	in := objectReader{x.part("backup")}
	if _, given := in.object["name"]; given {
		b.Name = in.text("name")
	}
	if _, given := in.object["description"]; given {
		b.Description = in.text("description")
	}
	if _, given := in.object["metadata"]; given && x.version.since(43) {
		b.Metadata = in.metadata()
	}
	b.updated = now()
	return answer(http.StatusOK, object{"backup": c.backupSummary(x, b)})
}

func (c *Cloud) deleteBackup(x *exchange) *reply {
	b, bad := c.backupOf(x, x.values["id"])
	if bad != nil {
		return bad
	}
	if b.Status != available && b.Status != failedState {
		return fault(http.StatusBadRequest, "Invalid backup: Backup status must be available or error")
	}
	if c.increments(b) > 0 {
		return fault(http.StatusBadRequest, "Invalid backup: Incremental backups exist for this backup.")
	}
	b.set(deleting)
	c.work(x, b.ID, func() {
		if x.script.outcome == fails {
			b.FailReason = "the backup driver failed"
			b.set(failedState)
			return
		}
		delete(c.backups, b.ID)
	})
	return answer(http.StatusAccepted, nil)
}

// restoreBackup writes a backup over a volume.
func (c *Cloud) restoreBackup(x *exchange) *reply {
	b, bad := c.backupOf(x, x.values["id"])
	if bad != nil {
		return bad
	}
	if b.Status != available {
		return fault(http.StatusBadRequest, "Invalid backup: Backup status must be available")
	}
	in := objectReader{x.part("restore")}
	v, bad := c.volumeOf(x, in.text("volume_id"))
	if bad != nil {
		return bad
	}
	switch {
	case v.Status != available:
		return fault(http.StatusBadRequest, "Invalid volume: Volume to be restored to must be available")
	case b.Size > v.Size:
		return faultf(http.StatusBadRequest, "Invalid volume: volume size %d is too small to restore backup of size %d.", v.Size, b.Size)
	}
	b.set("restoring")
	v.set("restoring-backup")
	c.work(x, b.ID, func() {
		b.set(available)
		if x.script.outcome == fails {
			v.set("error_restoring")
			return
		}
		b.restore(v)
		v.set(available)
	})
	return answer(http.StatusAccepted, object{"restore": object{"backup_id": b.ID, "volume_id": v.ID, "volume_name": v.Name}})
}

func (c *Cloud) listBackups(x *exchange) *reply {
	full := x.route.call == ListBackupDetail
	return listing(c, x, collection[*backup]{
		name: "backups", all: maps.Values(c.backups), missing: "Backup %s could not be found.", filters: []string{"name", "status", "volume_id"},
		view: func(b *backup) object {
			if full {
				return c.backupView(x, b)
			}
			return c.backupSummary(x, b)
		},
		entry: func(b *backup) entry {
			return entry{
				id: b.ID, project: b.projectID, created: b.created, updated: b.updated, metadata: b.Metadata,
				fields: map[string]string{"name": b.Name, "status": b.Status, "volume_id": b.VolumeID, "size": itoa(b.Size)},
			}
		},
	})
}
