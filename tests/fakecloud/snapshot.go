package fakecloud

import (
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Snapshot is a snapshot as Cinder shows it.
type Snapshot struct {
	ID          string
	Name        string
	Description string
	Status      string
	VolumeID    string
	Size        int // GiB
	Metadata    map[string]string
}

// snapshot is the state of a snapshot.
type snapshot struct {
	Snapshot
	projectID, userID string
	typeID, zone      string
	created, updated  time.Time
}

func (sn *snapshot) setStatus(status string) { sn.Status, sn.updated = status, now() }

// Snapshot returns the present state of a snapshot.
func (c *Cloud) Snapshot(id string) (Snapshot, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, ok := c.snapshots[id]
	if !ok {
		return Snapshot{}, false
	}
	out := s.Snapshot
	out.Metadata = maps.Clone(out.Metadata)
	return out, true
}

// SetSnapshotStatus overwrites the state of a snapshot.
func (c *Cloud) SetSnapshotStatus(id, status string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.snapshots[id]; s != nil {
		s.setStatus(status)
	}
}

func snapshotRoutes() []route {
	return []route{
		cinderRoute(http.MethodGet, "/snapshots", ListSnapshots, (*Cloud).listSnapshots),
		cinderRoute(http.MethodGet, "/snapshots/detail", ListSnapshotDetail, (*Cloud).listSnapshots),
		cinderRoute(http.MethodPost, "/snapshots", CreateSnapshot, (*Cloud).createSnapshot),
		cinderRoute(http.MethodGet, "/snapshots/{id}", GetSnapshot, onSnapshot((*Cloud).getSnapshot)),
		cinderRoute(http.MethodDelete, "/snapshots/{id}", DeleteSnapshot, onSnapshot((*Cloud).deleteSnapshot)),
	}
}

// onSnapshot returns a handler that calls h with the snapshot in the path of the request.
func onSnapshot(h func(*Cloud, *exchange, *snapshot) *reply) handler {
	return func(c *Cloud, x *exchange) *reply {
		o, refusal := c.findSnapshot(x, x.values["id"])
		if refusal != nil {
			return refusal
		}
		return h(c, x, o)
	}
}

func (c *Cloud) findSnapshot(x *exchange, id string) (*snapshot, *reply) {
	s := c.snapshots[id]
	if s == nil || (s.projectID != x.token.projectID() && !x.token.hasRole("admin")) {
		return nil, apiErrorf(http.StatusNotFound, "Snapshot %s could not be found.", id)
	}
	return s, nil
}

// snapshotView returns the fields of a snapshot; full adds the two fields of detailed answers.
func snapshotView(x *exchange, s *snapshot, full bool) object {
	view := object{
		"id":          s.ID,
		"created_at":  timeOrNull(s.created),
		"updated_at":  timeOrNull(s.updated),
		"name":        textOrNull(s.Name),
		"description": textOrNull(s.Description),
		"volume_id":   s.VolumeID,
		"status":      s.Status,
		"size":        s.Size,
		"metadata":    maps.Clone(s.Metadata),
	}
	for minor, fields := range map[int]object{
		14: {"group_snapshot_id": nil},
		41: {"user_id": s.userID},
		65: {"consumes_quota": true},
	} {
		if x.version.isAtLeast(minor) && x.route.call != ListSnapshots {
			maps.Copy(view, fields)
		}
	}
	if full {
		view["os-extended-snapshot-attributes:project_id"] = s.projectID
		view["os-extended-snapshot-attributes:progress"] = map[bool]string{
			true:  "100%",
			false: "0%",
		}[s.Status == statusAvailable]
	}
	return view
}

// readForce reports whether the request may snapshot a volume in use: with force before 3.66,
// always since 3.66, which refuses force=false.
func readForce(x *exchange, in objectReader) (allowsInUse bool, refusal *reply) {
	force, given := in.object["force"]
	text, _ := force.(string)
	forced := force == true || isTrue(text)
	if !x.version.isAtLeast(66) {
		return forced, nil
	}
	if given && force != nil && !forced {
		return false, apiError(http.StatusBadRequest, "Since microversion 3.66 the 'force' flag is invalid for this "+
			"request.  For backward compatability, however, "+ //nolint:misspell // as in Cinder
			"when the 'force' flag is passed with a value evaluating to True, it is silently ignored.")
	}
	return true, nil
}

func (c *Cloud) createSnapshot(x *exchange) *reply {
	in := objectReader{x.object("snapshot")}
	if refusal := in.checkMetadata(); refusal != nil {
		return refusal
	}
	v, refusal := c.findVolume(x, in.text("volume_id"))
	if refusal != nil {
		return refusal
	}
	allowsInUse, refusal := readForce(x, in)
	if refusal != nil {
		return refusal
	}
	allowed := []string{statusAvailable}
	if allowsInUse {
		allowed = append(allowed, statusInUse)
	}
	switch {
	case v.Status == statusError:
		return apiError(http.StatusBadRequest,
			"Invalid volume: The snapshot cannot be created when the volume is in error status.")
	case !slices.Contains(allowed, v.Status):
		return apiErrorf(http.StatusBadRequest, "Invalid volume: Volume %s status must be %s, but current status is: %s.",
			v.ID, strings.Join(allowed, ", "), v.Status)
	}
	if refusal := c.checkQuota(0, 1, v.Size); refusal != nil {
		return refusal
	}
	s := &snapshot{
		Snapshot: Snapshot{
			ID: c.newID(), Name: in.text("name"), Description: in.text("description"), Status: statusCreating, VolumeID: v.ID,
			Size: v.Size, Metadata: in.metadata(),
		},
		projectID: v.projectID, userID: x.token.user.id, typeID: v.typeID, zone: v.Zone, created: now(),
	}
	c.snapshots[s.ID] = s
	out := newReply(http.StatusAccepted, object{"snapshot": snapshotView(x, s, false)})
	c.runWork(x, s.ID, func() {
		switch {
		case s.Status != statusCreating:
		case x.plan.outcome == outcomeFailure || x.plan.outcome == outcomeRefused:
			s.setStatus(statusError)
			c.addMessage(x, "VOLUME_SNAPSHOT", s.ID, actionCreateSnapshot, detailSnapshotFailed)
		default:
			s.setStatus(statusAvailable)
		}
	})
	return out
}

func (c *Cloud) getSnapshot(x *exchange, s *snapshot) *reply {
	return newReply(http.StatusOK, object{"snapshot": snapshotView(x, s, true)})
}

func (c *Cloud) deleteSnapshot(x *exchange, s *snapshot) *reply {
	if s.Status != statusAvailable && s.Status != statusError {
		return apiError(http.StatusBadRequest,
			"Invalid snapshot: Snapshot status must be available or error and must not be part of a group.")
	}
	s.setStatus(statusDeleting)
	c.runWork(x, s.ID, func() {
		switch {
		case x.plan.outcome == outcomeRefused || c.opts.KeepClonedSnapshots && c.countClones(s) > 0:
			s.setStatus(statusAvailable)
			c.addMessage(x, "VOLUME_SNAPSHOT", s.ID, actionDeleteSnapshot, detailSnapshotBusy)
		case x.plan.outcome == outcomeFailure:
			s.setStatus(statusErrorDeleting)
		default:
			delete(c.snapshots, s.ID)
		}
	})
	return newReply(http.StatusAccepted, nil)
}

func (c *Cloud) countClones(of *snapshot) int {
	n := 0
	for _, v := range c.volumes {
		if v.SnapshotID == of.ID {
			n++
		}
	}
	return n
}

func (c *Cloud) listSnapshots(x *exchange) *reply {
	full := x.route.call == ListSnapshotDetail
	return answerList(c, x, collection[*snapshot]{
		name: "snapshots", all: maps.Values(c.snapshots), notFound: "Snapshot %s could not be found.",
		filters: []string{"name", "status", "volume_id", "metadata", "availability_zone", "consumes_quota"},
		view:    func(s *snapshot) object { return snapshotView(x, s, full) },
		entry: func(s *snapshot) entry {
			return entry{
				id: s.ID, project: s.projectID, created: s.created, updated: s.updated, metadata: s.Metadata,
				fields: map[string]string{
					"name":              s.Name,
					"status":            s.Status,
					"volume_id":         s.VolumeID,
					"availability_zone": s.zone,
					"size":              strconv.Itoa(s.Size),
				},
			}
		},
	})
}
