package fakecloud

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Snapshot is a snapshot as Cinder knows it.
type Snapshot struct {
	ID          string
	Name        string
	Description string
	Status      string
	VolumeID    string
	Size        int // GiB
	Metadata    map[string]string
}

type snapshot struct {
	Snapshot
	projectID, userID string
	typeID, zone      string
	created, updated  time.Time
}

func (s *snapshot) set(status string) { s.Status, s.updated = status, now() }

// Snapshot returns a snapshot as it stands.
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
		s.set(status)
	}
}

func snapshotRoutes() []route {
	return []route{
		cinderRoute(http.MethodGet, "/snapshots", ListSnapshots, (*Cloud).listSnapshots),
		cinderRoute(http.MethodGet, "/snapshots/detail", ListSnapshotDetail, (*Cloud).listSnapshots),
		cinderRoute(http.MethodPost, "/snapshots", CreateSnapshot, (*Cloud).createSnapshot),
		cinderRoute(http.MethodGet, "/snapshots/{id}", GetSnapshot, (*Cloud).getSnapshot),
		cinderRoute(http.MethodDelete, "/snapshots/{id}", DeleteSnapshot, (*Cloud).deleteSnapshot),
	}
}

func (c *Cloud) snapshotOf(x *exchange, id string) (*snapshot, *reply) {
	s := c.snapshots[id]
	if s == nil || (s.projectID != x.token.projectID() && !x.token.has("admin")) {
		return nil, faultf(http.StatusNotFound, "Snapshot %s could not be found.", id)
	}
	return s, nil
}

// snapshotView has two keys more where a snapshot is shown in full.
func snapshotView(x *exchange, s *snapshot, full bool) object {
	view := object{
		"id": s.ID, "created_at": timeOrNull(s.created), "updated_at": timeOrNull(s.updated), "name": textOrNull(s.Name),
		"description": textOrNull(s.Description), "volume_id": s.VolumeID, "status": s.Status, "size": s.Size, "metadata": maps.Clone(s.Metadata),
	}
	for since, add := range map[int]object{14: {"group_snapshot_id": nil}, 41: {"user_id": s.userID}, 65: {"consumes_quota": true}} {
		if x.version.since(since) && x.route.call != ListSnapshots {
			maps.Copy(view, add)
		}
	}
	if full {
		view["os-extended-snapshot-attributes:project_id"] = s.projectID
		view["os-extended-snapshot-attributes:progress"] = map[bool]string{true: "100%", false: "0%"}[s.Status == available]
	}
	return view
}

// mayBeForced reads force, which 3.66 did away with: true is ignored, false
// refused.
func mayBeForced(x *exchange, in objectReader) (inUseToo bool, bad *reply) {
	force, given := in.object["force"]
	text, _ := force.(string)
	forced := force == true || trueText(text)
	if !x.version.since(66) {
		return forced, nil
	}
	if given && force != nil && !forced {
		return false, fault(http.StatusBadRequest, "Since microversion 3.66 the 'force' flag is invalid for this request.  For backward compatability, however, when the 'force' flag is passed with a value evaluating to True, it is silently ignored.") //nolint:misspell // the cloud's own text
	}
	return true, nil
}

func (c *Cloud) createSnapshot(x *exchange) *reply {
	in := objectReader{x.part("snapshot")}
	if bad := in.checkMetadata(); bad != nil {
		return bad
	}
	v, bad := c.volumeOf(x, in.text("volume_id"))
	if bad != nil {
		return bad
	}
	inUseToo, bad := mayBeForced(x, in)
	if bad != nil {
		return bad
	}
	allowed := []string{available}
	if inUseToo {
		allowed = append(allowed, inUse)
	}
	switch {
	case v.Status == failedState:
		return fault(http.StatusBadRequest, "Invalid volume: The snapshot cannot be created when the volume is in error status.")
	case !slices.Contains(allowed, v.Status):
		return faultf(http.StatusBadRequest, "Invalid volume: Volume %s status must be %s, but current status is: %s.", v.ID, strings.Join(allowed, ", "), v.Status)
	}
	if bad := c.allow(0, 1, v.Size); bad != nil {
		return bad
	}
	s := &snapshot{
		Snapshot: Snapshot{
			ID: c.newID(), Name: in.text("name"), Description: in.text("description"), Status: creating, VolumeID: v.ID, Size: v.Size, Metadata: in.metadata(),
		},
		projectID: v.projectID, userID: x.token.user.id, typeID: v.typeID, zone: v.Zone, created: now(),
	}
	c.snapshots[s.ID] = s
	out := answer(http.StatusAccepted, object{"snapshot": snapshotView(x, s, false)})
	c.work(x, s.ID, func() {
		switch {
		case s.Status != creating:
		case x.script.outcome == fails || x.script.outcome == refused:
			s.set(failedState)
			c.tellOf(x, "VOLUME_SNAPSHOT", s.ID, actionSnapshot, detailSnapshotError)
		default:
			s.set(available)
		}
	})
	return out
}

func (c *Cloud) getSnapshot(x *exchange) *reply {
	s, bad := c.snapshotOf(x, x.values["id"])
	if bad != nil {
		return bad
	}
	return answer(http.StatusOK, object{"snapshot": snapshotView(x, s, true)})
}

func (c *Cloud) deleteSnapshot(x *exchange) *reply {
	s, bad := c.snapshotOf(x, x.values["id"])
	if bad != nil {
		return bad
	}
	if s.Status != available && s.Status != failedState {
		return fault(http.StatusBadRequest, "Invalid snapshot: Snapshot status must be available or error and must not be part of a group.")
	}
	s.set(deleting)
	c.work(x, s.ID, func() {
		switch {
		case x.script.outcome == refused || c.opts.Dependent && c.clones(s) > 0:
			s.set(available)
			c.tellOf(x, "VOLUME_SNAPSHOT", s.ID, actionUnsnap, detailSnapshotBusy)
		case x.script.outcome == fails:
			s.set(errorDeleting)
		default:
			delete(c.snapshots, s.ID)
		}
	})
	return answer(http.StatusAccepted, nil)
}

func (c *Cloud) clones(of *snapshot) int {
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
	return listing(c, x, collection[*snapshot]{
		name: "snapshots", all: maps.Values(c.snapshots), missing: "Snapshot %s could not be found.",
		filters: []string{"name", "status", "volume_id", "metadata", "availability_zone", "consumes_quota"},
		view:    func(s *snapshot) object { return snapshotView(x, s, full) },
		entry: func(s *snapshot) entry {
			return entry{
				id: s.ID, project: s.projectID, created: s.created, updated: s.updated, metadata: s.Metadata,
				fields: map[string]string{"name": s.Name, "status": s.Status, "volume_id": s.VolumeID, "availability_zone": s.zone, "size": itoa(s.Size)},
			}
		},
	})
}
