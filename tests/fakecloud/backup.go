package fakecloud

import (
	"maps"
	"net/http"
	"strconv"
	"time"
)

// Backup is a backup as Cinder shows it.
type Backup struct {
	ID          string
	Name        string
	Description string
	Status      string
	FailReason  string
	VolumeID    string
	SnapshotID  string
	ParentID    string // backup on which an incremental backup is based
	Zone        string
	Size        int // GiB
	Metadata    map[string]string
}

// backup is the state of a backup.
type backup struct {
	Backup
	projectID        string
	created, updated time.Time
	source           Volume // the volume at the time of the backup
}

// restore gives a volume the metadata of the backed-up volume in place of its own. A volume without
// a name also gets the name and the description.
func (b *backup) restore(v *volume) {
	v.Metadata = maps.Clone(b.source.Metadata)
	v.Metadata["src_backup_id"] = b.ID
	if v.Name == "" {
		v.Name, v.Description = b.source.Name, b.source.Description
	}
}

func (b *backup) setStatus(status string) { b.Status, b.updated = status, now() }

// Backup returns the present state of a backup.
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
		cinderRoute(http.MethodGet, "/backups/{id}", GetBackup, onBackup((*Cloud).getBackup)),
		cinderRoute(http.MethodDelete, "/backups/{id}", DeleteBackup, onBackup((*Cloud).deleteBackup)),
		updateBackupRoute(),
		cinderRoute(http.MethodPost, "/backups/{id}/restore", RestoreBackup, onBackup((*Cloud).restoreBackup)),
	}
}

// onBackup returns a handler that calls h with the backup in the path of the request.
func onBackup(h func(*Cloud, *exchange, *backup) *reply) handler {
	return func(c *Cloud, x *exchange) *reply {
		o, refusal := c.findBackup(x, x.values["id"])
		if refusal != nil {
			return refusal
		}
		return h(c, x, o)
	}
}

func (c *Cloud) findBackup(x *exchange, id string) (*backup, *reply) {
	b := c.backups[id]
	if b == nil || (b.projectID != x.token.projectID() && !x.token.hasRole("admin")) {
		return nil, apiErrorf(http.StatusNotFound, "Backup %s could not be found.", id)
	}
	return b, nil
}

// backupSummary returns the fields of a backup that short lists and answers to changes have.
func (c *Cloud) backupSummary(x *exchange, b *backup) object {
	return object{"id": b.ID, "name": textOrNull(b.Name), "links": c.resourceLinks(x, "backups", b.ID)}
}

func (c *Cloud) backupView(x *exchange, b *backup) object {
	view := c.backupSummary(x, b)
	maps.Copy(view, object{
		"status":                b.Status,
		"size":                  b.Size,
		"object_count":          0,
		"availability_zone":     textOrNull(b.Zone),
		"container":             "backups",
		"created_at":            timeOrNull(b.created),
		"updated_at":            timeOrNull(b.updated),
		"description":           textOrNull(b.Description),
		"fail_reason":           textOrNull(b.FailReason),
		"volume_id":             b.VolumeID,
		"is_incremental":        b.ParentID != "",
		"has_dependent_backups": c.countIncrements(b) > 0,
		"snapshot_id":           textOrNull(b.SnapshotID),
		"data_timestamp":        timeOrNull(b.created),
	})
	if x.version.isAtLeast(43) {
		view["metadata"] = maps.Clone(b.Metadata)
	}
	if x.token.hasRole("admin") && x.version.isAtLeast(18) {
		view["os-backup-project-attr:project_id"] = b.projectID
	}
	return view
}

func (c *Cloud) countIncrements(of *backup) int {
	n := 0
	for _, b := range c.backups {
		if b.ParentID == of.ID {
			n++
		}
	}
	return n
}

// backupSource is the volume, or the snapshot of the volume, that a backup copies.
type backupSource struct {
	volume   *volume
	snapshot *snapshot
}

// markBusy sets the state of the source to backing-up. undo sets the old state.
func (src backupSource) markBusy() (undo func()) {
	if src.snapshot != nil {
		src.snapshot.setStatus(statusBackingUp)
		return func() { src.snapshot.setStatus(statusAvailable) }
	}
	before := src.volume.Status
	src.volume.setStatus(statusBackingUp)
	return func() { src.volume.setStatus(before) }
}

// findBackupSource returns the source that a request names, or refuses a source whose state does
// not allow a backup.
func (c *Cloud) findBackupSource(x *exchange, in objectReader) (s backupSource, refusal *reply) {
	if s.volume, refusal = c.findVolume(x, in.text("volume_id")); refusal != nil {
		return s, refusal
	}
	if id := in.text("snapshot_id"); id != "" {
		if s.snapshot, refusal = c.findSnapshot(x, id); refusal != nil {
			return s, refusal
		}
		if s.snapshot.Status != statusAvailable {
			return s, apiErrorf(http.StatusBadRequest,
				"Invalid snapshot: Snapshot to be backed up must be available, but the current status is %q.", s.snapshot.Status)
		}
		return s, nil
	}
	force, _ := in.object["force"].(bool)
	switch {
	case s.volume.Status != statusAvailable && s.volume.Status != statusInUse:
		return s, apiErrorf(http.StatusBadRequest,
			"Invalid volume: Volume to be backed up must be available or in-use, but the current status is %q.", s.volume.Status)
	case s.volume.Status == statusInUse && !force:
		return s, apiError(http.StatusBadRequest, "Invalid volume: Backing up an in-use volume must use the force flag.")
	}
	return s, nil
}

// findParentBackup returns the ID of the latest backup of the volume if the request is for an
// incremental backup.
func (c *Cloud) findParentBackup(in objectReader, v *volume) (id string, refusal *reply) {
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
		return "", apiError(http.StatusBadRequest, "Invalid backup: No backups available to do an incremental backup.")
	case latest.Status != statusAvailable:
		return "", apiError(http.StatusBadRequest,
			"Invalid backup: The parent backup must be available for incremental backup.")
	}
	return latest.ID, nil
}

func (c *Cloud) createBackup(x *exchange) *reply {
	in := objectReader{x.object("backup")}
	if refusal := in.checkMetadata(); refusal != nil {
		return refusal
	}
	from, refusal := c.findBackupSource(x, in)
	if refusal != nil {
		return refusal
	}
	if refusal := c.checkBackupQuota(from.volume.Size); refusal != nil {
		return refusal
	}
	parent, refusal := c.findParentBackup(in, from.volume)
	if refusal != nil {
		return refusal
	}
	b := &backup{
		Backup: Backup{
			ID:          c.newID(),
			Name:        in.text("name"),
			Description: in.text("description"),
			Status:      statusCreating,
			VolumeID:    from.volume.ID,
			SnapshotID:  in.text("snapshot_id"),
			ParentID:    parent,
			Size:        from.volume.Size,
			Metadata:    map[string]string{},
		},
		projectID: from.volume.projectID, created: now(), source: from.volume.clone(),
	}
	if x.version.isAtLeast(43) {
		b.Metadata = in.metadata()
	}
	if x.version.isAtLeast(51) {
		b.Zone = in.text("availability_zone")
	}
	c.backups[b.ID] = b
	undo := from.markBusy()
	c.runWork(x, b.ID, func() {
		undo()
		if o := x.plan.outcome; o == outcomeFailure || o == outcomeRefused {
			b.FailReason = "the backup driver failed"
			b.setStatus(statusError)
			return
		}
		b.setStatus(statusAvailable)
	})
	return newReply(http.StatusAccepted, object{"backup": c.backupSummary(x, b)})
}

func (c *Cloud) getBackup(x *exchange, b *backup) *reply {
	return newReply(http.StatusOK, object{"backup": c.backupView(x, b)})
}

func updateBackupRoute() route {
	r := cinderRoute(http.MethodPut, "/backups/{id}", UpdateBackup, onBackup((*Cloud).updateBackup))
	r.minMinor = 9
	return r
}

// updateBackup changes the name and the description of a backup in any state and, since 3.43,
// replaces its metadata.
func (c *Cloud) updateBackup(x *exchange, b *backup) *reply {
	in := objectReader{x.object("backup")}
	if _, given := in.object["name"]; given {
		b.Name = in.text("name")
	}
	if _, given := in.object["description"]; given {
		b.Description = in.text("description")
	}
	if _, given := in.object["metadata"]; given && x.version.isAtLeast(43) {
		b.Metadata = in.metadata()
	}
	b.updated = now()
	return newReply(http.StatusOK, object{"backup": c.backupSummary(x, b)})
}

func (c *Cloud) deleteBackup(x *exchange, b *backup) *reply {
	if b.Status != statusAvailable && b.Status != statusError {
		return apiError(http.StatusBadRequest, "Invalid backup: Backup status must be available or error")
	}
	if c.countIncrements(b) > 0 {
		return apiError(http.StatusBadRequest, "Invalid backup: Incremental backups exist for this backup.")
	}
	b.setStatus(statusDeleting)
	c.runWork(x, b.ID, func() {
		if x.plan.outcome == outcomeFailure {
			b.FailReason = "the backup driver failed"
			b.setStatus(statusError)
			return
		}
		delete(c.backups, b.ID)
	})
	return newReply(http.StatusAccepted, nil)
}

// restoreBackup restores a backup to an existing volume.
func (c *Cloud) restoreBackup(x *exchange, b *backup) *reply {
	if b.Status != statusAvailable {
		return apiError(http.StatusBadRequest, "Invalid backup: Backup status must be available")
	}
	in := objectReader{x.object("restore")}
	v, refusal := c.findVolume(x, in.text("volume_id"))
	if refusal != nil {
		return refusal
	}
	switch {
	case v.Status != statusAvailable:
		return apiError(http.StatusBadRequest, "Invalid volume: Volume to be restored to must be available")
	case b.Size > v.Size:
		return apiErrorf(http.StatusBadRequest, "Invalid volume: volume size %d is too small to restore backup of size %d.",
			v.Size, b.Size)
	}
	b.setStatus("restoring")
	v.setStatus("restoring-backup")
	c.runWork(x, b.ID, func() {
		b.setStatus(statusAvailable)
		if x.plan.outcome == outcomeFailure {
			v.setStatus("error_restoring")
			return
		}
		b.restore(v)
		v.setStatus(statusAvailable)
	})
	return newReply(http.StatusAccepted, object{
		"restore": object{"backup_id": b.ID, "volume_id": v.ID, "volume_name": v.Name},
	})
}

func (c *Cloud) listBackups(x *exchange) *reply {
	full := x.route.call == ListBackupDetail
	return answerList(c, x, collection[*backup]{
		name: "backups", all: maps.Values(c.backups), notFound: "Backup %s could not be found.",
		filters: []string{"name", "status", "volume_id"},
		view: func(b *backup) object {
			if full {
				return c.backupView(x, b)
			}
			return c.backupSummary(x, b)
		},
		entry: func(b *backup) entry {
			return entry{
				id: b.ID, project: b.projectID, created: b.created, updated: b.updated, metadata: b.Metadata,
				fields: map[string]string{
					"name":      b.Name,
					"status":    b.Status,
					"volume_id": b.VolumeID,
					"size":      strconv.Itoa(b.Size),
				},
			}
		},
	})
}
