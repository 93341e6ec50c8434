package fakecloud

import (
	"cmp"
	"net/http"
	"slices"
	"time"
)

// volumeSource is the object from which a request creates a volume. The zero value is an empty
// volume.
type volumeSource struct {
	snapshot *snapshot
	volume   *volume
	backup   *backup
	size     int // in GiB; the new volume may not be smaller
	typeID   string
	zone     string
}

// createVolume is POST volumes. finishCreate does the work of the scheduler and the driver after
// the answer.
func (c *Cloud) createVolume(x *exchange) *reply {
	in := objectReader{x.object("volume")}
	if _, given := x.body["volume"]; !given {
		return apiError(http.StatusBadRequest, "'volume' is a required property")
	}
	if refusal := in.checkPositive("size"); refusal != nil {
		return refusal
	}
	if refusal := in.checkMetadata(); refusal != nil {
		return refusal
	}
	t, typed := c.types[0], false
	if want := in.text("volume_type"); want != "" {
		if t, typed = c.findType(want); !typed {
			return apiErrorf(http.StatusNotFound, "Volume type with name %s could not be found.", want)
		}
	}
	from, refusal := c.findVolumeSource(x, in)
	if refusal != nil {
		return refusal
	}
	if !typed && from.typeID != "" {
		t, _ = c.findType(from.typeID)
	}
	size, refusal := chooseSize(in, t, from)
	if refusal != nil {
		return refusal
	}
	zone := cmp.Or(in.text("availability_zone"), from.zone, c.opts.Zones[0])
	if !slices.Contains(c.opts.Zones, zone) {
		return apiErrorf(http.StatusBadRequest, "Availability zone '%s' is invalid.", zone)
	}
	if refusal := cmp.Or(c.checkVolumeSize(size), c.checkQuota(1, 0, size)); refusal != nil {
		return refusal
	}
	v := c.newVolume(x, in, t, from)
	v.Size, v.Zone = size, zone
	out := newReply(http.StatusAccepted, object{"volume": c.volumeSummary(x, v)})
	c.finishCreate(x, v)
	return out
}

// findVolumeSource returns the source that the request names. It refuses a source that does not
// exist or whose state does not allow a copy.
func (c *Cloud) findVolumeSource(x *exchange, in objectReader) (volumeSource, *reply) {
	var from volumeSource
	if id := in.text("snapshot_id"); id != "" {
		s, refusal := c.findSnapshot(x, id)
		if refusal != nil {
			return from, refusal
		}
		if s.Status != statusAvailable {
			return from, apiError(http.StatusBadRequest,
				"Invalid snapshot: Originating snapshot status must be one of 'available' values")
		}
		from = volumeSource{snapshot: s, size: s.Size, typeID: s.typeID, zone: s.zone}
	}
	if id := in.text("source_volid"); id != "" {
		v, refusal := c.findVolume(x, id)
		if refusal != nil {
			return from, refusal
		}
		if v.Status != statusAvailable && v.Status != statusInUse {
			return from, apiError(http.StatusBadRequest,
				"Invalid volume: Originating source volume status must be one of 'available, in-use' values")
		}
		from = volumeSource{volume: v, size: v.Size, typeID: v.typeID, zone: v.Zone}
	}
	if id := in.text("backup_id"); id != "" {
		b, refusal := c.findBackup(x, id)
		if refusal != nil {
			return from, refusal
		}
		if b.Status != statusAvailable {
			return from, apiError(http.StatusBadRequest,
				"Invalid backup: Originating backup status must be one of 'available' values")
		}
		from = volumeSource{backup: b, size: b.Size}
	}
	return from, nil
}

// chooseSize returns the size of the new volume in GiB: that of the request, or else that of the
// source.
func chooseSize(in objectReader, t VolumeType, from volumeSource) (int, *reply) {
	size, given, _ := in.number("size")
	if !given {
		size = from.size
	}
	if size == 0 {
		return 0, apiError(http.StatusBadRequest,
			"The server could not comply with the request since it is either malformed or otherwise incorrect.")
	}
	if refusal := checkTypeLimits(t, size); refusal != nil {
		return 0, refusal
	}
	if size >= from.size {
		return size, nil
	}
	message := "Volume size '%d'GB cannot be smaller than the snapshot size %dGB. They must be >= original snapshot size."
	switch {
	case from.volume != nil:
		message = "Volume size '%d'GB cannot be smaller than original volume size  %dGB. They must be >= original volume " +
			"size."
	case from.backup != nil:
		message = "Volume size %dGB cannot be smaller than the backup size %dGB. It must be >= backup size."
	}
	return 0, apiErrorf(http.StatusBadRequest, "Invalid input received: "+message, size, from.size)
}

// checkTypeLimits refuses a size outside the limits that a volume type sets.
func checkTypeLimits(t VolumeType, size int) *reply {
	limit := func(key string) (string, int) {
		n, _, _ := objectReader{object{"n": t.ExtraSpecs[key]}}.number("n")
		return t.ExtraSpecs[key], n
	}
	if s, n := limit("provisioning:min_vol_size"); s != "" && size < n {
		return apiErrorf(http.StatusBadRequest,
			"Invalid input received: Specified volume size of '%d' is less than the minimum required size of '%s' for volume "+
				"type '%s'.", size, s, t.Name)
	}
	if s, n := limit("provisioning:max_vol_size"); s != "" && size > n {
		return apiErrorf(http.StatusBadRequest,
			"Invalid input received: Specified volume size of '%d' is greater than the maximum allowable size of '%s' for "+
				"volume type '%s'.", size, s, t.Name)
	}
	return nil
}

// newVolume adds a volume in the state creating.
func (c *Cloud) newVolume(x *exchange, in objectReader, t VolumeType, from volumeSource) *volume {
	v := &volume{
		Volume: Volume{
			ID: c.newID(), Name: in.text("name"), Description: in.text("description"), Status: statusCreating, Type: t.Name,
			Encrypted: t.Encrypted, Multiattach: t.Multiattach(), Metadata: in.metadata(),
		},
		typeID: t.ID, projectID: x.token.projectID(), userID: x.token.user.id, created: now(),
		attachedAt: map[string]time.Time{},
	}
	hints, _ := x.body["OS-SCH-HNT:scheduler_hints"].(object)
	v.Hints = hints
	switch {
	case from.snapshot != nil:
		v.SnapshotID = from.snapshot.ID
	case from.volume != nil:
		v.SourceID = from.volume.ID
	case from.backup != nil:
		v.BackupID = from.backup.ID
	}
	c.volumes[v.ID] = v
	return v
}

// finishCreate does the work of the scheduler and the driver.
func (c *Cloud) finishCreate(x *exchange, v *volume) {
	s := x.plan
	c.runWork(x, v.ID, func() {
		if c.volumes[v.ID] != v || v.Status != statusCreating {
			return
		}
		switch {
		case s.outcome == outcomeRefused || c.isFull(0):
			v.setStatus(statusError)
			c.addVolumeMessage(x, v.ID, actionScheduleVolume, detailNoBackend)
		case s.outcome == outcomeFailure:
			v.setStatus(statusError)
			c.addVolumeMessage(x, v.ID, actionCreateVolume, detailCreateFailed)
		default:
			if b := c.backups[v.BackupID]; b != nil {
				b.restore(v)
			}
			v.setStatus(statusAvailable)
		}
	})
}

// isFull reports whether another gib GiB would exceed the capacity of the backend.
func (c *Cloud) isFull(gib int) bool {
	if c.capacity == 0 {
		return false
	}
	sum := gib
	for _, v := range c.volumes {
		if v.Status != statusError {
			sum += v.Size
		}
	}
	return sum > c.capacity
}

func (c *Cloud) deleteVolume(x *exchange, v *volume) *reply {
	var snapshots []*snapshot
	for _, s := range c.snapshots {
		if s.VolumeID == v.ID {
			snapshots = append(snapshots, s)
		}
	}
	cascade := isTrue(x.http.URL.Query().Get("cascade"))
	deletable := slices.Contains([]string{
		statusAvailable, statusError, "error_restoring", statusErrorExtending, "error_managing",
	}, v.Status)
	if !deletable || len(v.Attachments) > 0 || len(snapshots) > 0 && !cascade {
		return apiError(http.StatusBadRequest,
			"Invalid volume: Volume status must be available or error or error_restoring or error_extending or "+
				"error_managing and must not be migrating, attached, belong to a group, have snapshots, awaiting a transfer, or "+
				"be disassociated from snapshots after volume transfer.")
	}
	v.setStatus(statusDeleting)
	s := x.plan
	c.runWork(x, v.ID, func() {
		c.runAfterClones(v, func() {
			if s.outcome == outcomeFailure {
				v.setStatus(statusErrorDeleting)
				return
			}
			delete(c.volumes, v.ID)
			for _, snap := range snapshots {
				delete(c.snapshots, snap.ID)
			}
		})
	})
	return newReply(http.StatusAccepted, nil)
}

// runAfterClones runs f when no clone of the volume is being created: until then Cinder's manager
// holds the lock ID-delete_volume of the source. The caller holds c.mu.
func (c *Cloud) runAfterClones(of *volume, f func()) {
	for _, v := range c.volumes {
		if v.SourceID == of.ID && v.Status == statusCreating {
			c.runAfter(5*time.Millisecond, func() { c.runAfterClones(of, f) })
			return
		}
	}
	f()
}
