package fakecloud

import (
	"cmp"
	"net/http"
	"slices"
	"time"
)

// origin is what a new volume is made from.
type origin struct {
	snapshot *snapshot
	volume   *volume
	backup   *backup
	size     int // GiB it has at least
	typeID   string
	zone     string
}

func (c *Cloud) createVolume(x *exchange) *reply {
	in := objectReader{x.part("volume")}
	if _, given := x.body["volume"]; !given {
		return fault(http.StatusBadRequest, "'volume' is a required property")
	}
	if bad := in.positive("size"); bad != nil {
		return bad
	}
	if bad := in.checkMetadata(); bad != nil {
		return bad
	}
	t, typed := c.types[0], false
	if want := in.text("volume_type"); want != "" {
		if t, typed = c.typeNamed(want); !typed {
			return faultf(http.StatusNotFound, "Volume type with name %s could not be found.", want)
		}
	}
	from, bad := c.originOf(x, in)
	if bad != nil {
		return bad
	}
	if !typed && from.typeID != "" {
		t, _ = c.typeNamed(from.typeID)
	}
	size, bad := newSize(in, t, from)
	if bad != nil {
		return bad
	}
	zone := cmp.Or(in.text("availability_zone"), from.zone, c.opts.Zones[0])
	if !slices.Contains(c.opts.Zones, zone) {
		return faultf(http.StatusBadRequest, "Availability zone '%s' is invalid.", zone)
	}
	if bad := cmp.Or(c.allowSize(size), c.allow(1, 0, size)); bad != nil {
		return bad
	}
	v := c.newVolume(x, in, t, from)
	v.Size, v.Zone = size, zone
	out := answer(http.StatusAccepted, object{"volume": c.volumeSummary(x, v)})
	c.finishCreate(x, v)
	return out
}

// originOf looks at the sources that were named.
func (c *Cloud) originOf(x *exchange, in objectReader) (origin, *reply) {
	var from origin
	if id := in.text("snapshot_id"); id != "" {
		s, bad := c.snapshotOf(x, id)
		if bad != nil {
			return from, bad
		}
		if s.Status != available {
			return from, fault(http.StatusBadRequest, "Invalid snapshot: Originating snapshot status must be one of 'available' values")
		}
		from = origin{snapshot: s, size: s.Size, typeID: s.typeID, zone: s.zone}
	}
	if id := in.text("source_volid"); id != "" {
		v, bad := c.volumeOf(x, id)
		if bad != nil {
			return from, bad
		}
		if v.Status != available && v.Status != inUse {
			return from, fault(http.StatusBadRequest, "Invalid volume: Originating source volume status must be one of 'available, in-use' values")
		}
		from = origin{volume: v, size: v.Size, typeID: v.typeID, zone: v.Zone}
	}
	if id := in.text("backup_id"); id != "" {
		b, bad := c.backupOf(x, id)
		if bad != nil {
			return from, bad
		}
		if b.Status != available {
			return from, fault(http.StatusBadRequest, "Invalid backup: Originating backup status must be one of 'available' values")
		}
		from = origin{backup: b, size: b.Size}
	}
	return from, nil
}

func newSize(in objectReader, t VolumeType, from origin) (int, *reply) {
	size, given, _ := in.number("size")
	if !given {
		size = from.size
	}
	if size == 0 {
		return 0, fault(http.StatusBadRequest, "The server could not comply with the request since it is either malformed or otherwise incorrect.")
	}
	if bad := allowedByType(t, size); bad != nil {
		return 0, bad
	}
	if size >= from.size {
		return size, nil
	}
	message := "Volume size '%d'GB cannot be smaller than the snapshot size %dGB. They must be >= original snapshot size."
	switch {
	case from.volume != nil:
		message = "Volume size '%d'GB cannot be smaller than original volume size  %dGB. They must be >= original volume size."
	case from.backup != nil:
		message = "Volume size %dGB cannot be smaller than the backup size %dGB. It must be >= backup size."
	}
	return 0, faultf(http.StatusBadRequest, "Invalid input received: "+message, size, from.size)
}

// allowedByType checks the bounds that a type sets.
func allowedByType(t VolumeType, size int) *reply {
	bound := func(key string) (string, int) {
		n, _, _ := objectReader{object{"n": t.ExtraSpecs[key]}}.number("n")
		return t.ExtraSpecs[key], n
	}
	if s, n := bound("provisioning:min_vol_size"); s != "" && size < n {
		return faultf(http.StatusBadRequest, "Invalid input received: Specified volume size of '%d' is less than the minimum required size of '%s' for volume type '%s'.", size, s, t.Name)
	}
	if s, n := bound("provisioning:max_vol_size"); s != "" && size > n {
		return faultf(http.StatusBadRequest, "Invalid input received: Specified volume size of '%d' is greater than the maximum allowable size of '%s' for volume type '%s'.", size, s, t.Name)
	}
	return nil
}

func (c *Cloud) newVolume(x *exchange, in objectReader, t VolumeType, from origin) *volume {
	v := &volume{
		Volume: Volume{
			ID: c.newID(), Name: in.text("name"), Description: in.text("description"), Status: creating, Type: t.Name,
			Encrypted: t.Encrypted, Multiattach: t.Multiattach(), Metadata: in.metadata(),
		},
		typeID: t.ID, projectID: x.token.projectID(), userID: x.token.user.id, created: now(), attachedAt: map[string]time.Time{},
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

// finishCreate ends what createVolume began.
func (c *Cloud) finishCreate(x *exchange, v *volume) {
	s := x.script
	c.work(x, v.ID, func() {
		if c.volumes[v.ID] != v || v.Status != creating {
			return
		}
		switch {
		case s.outcome == refused || c.full(0):
			v.set(failedState)
			c.tell(x, v.ID, actionSchedule, detailNoBackend)
		case s.outcome == fails:
			v.set(failedState)
			c.tell(x, v.ID, actionCreate, detailCreateFailed)
		default:
			if b := c.backups[v.BackupID]; b != nil {
				b.restore(v)
			}
			v.set(available)
		}
	})
}

// full tells whether the backend has no room for gib more.
func (c *Cloud) full(gib int) bool {
	if c.capacity == 0 {
		return false
	}
	sum := gib
	for _, v := range c.volumes {
		if v.Status != failedState {
			sum += v.Size
		}
	}
	return sum > c.capacity
}

func (c *Cloud) deleteVolume(x *exchange) *reply {
	v, bad := c.volumeOf(x, x.values["id"])
	if bad != nil {
		return bad
	}
	var snapshots []*snapshot
	for _, s := range c.snapshots {
		if s.VolumeID == v.ID {
			snapshots = append(snapshots, s)
		}
	}
	cascade := trueText(x.http.URL.Query().Get("cascade"))
	deletable := slices.Contains([]string{available, failedState, "error_restoring", errorExtending, "error_managing"}, v.Status)
	if !deletable || len(v.Attachments) > 0 || len(snapshots) > 0 && !cascade {
		return fault(http.StatusBadRequest, "Invalid volume: Volume status must be available or error or error_restoring or error_extending or error_managing and must not be migrating, attached, belong to a group, have snapshots, awaiting a transfer, or be disassociated from snapshots after volume transfer.")
	}
	v.set(deleting)
	s := x.script
	c.work(x, v.ID, func() {
		c.afterClones(v, func() {
			if s.outcome == fails {
				v.set(errorDeleting)
				return
			}
			delete(c.volumes, v.ID)
			for _, snap := range snapshots {
				delete(c.snapshots, snap.ID)
			}
		})
	})
	return answer(http.StatusAccepted, nil)
}

// afterClones runs f when no clone of the volume is being made: Cinder's manager
// holds the lock ID-delete_volume of the source meanwhile. The lock is held.
func (c *Cloud) afterClones(of *volume, f func()) {
	for _, v := range c.volumes {
		if v.SourceID == of.ID && v.Status == creating {
			c.later(5*time.Millisecond, func() { c.afterClones(of, f) })
			return
		}
	}
	f()
}
