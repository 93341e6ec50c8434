package cloud

import (
	"context"
	"fmt"
	"net/url"
	"strconv"
	"time"
)

// Snapshot is a snapshot as Cinder shows it.
type Snapshot struct {
	ID, Name, Status, VolumeID string
	Size                       int // of the volume when it was taken
	CreatedAt                  time.Time
	Metadata                   map[string]string
}

type wireSnapshot struct {
	ID       string            `json:"id"`
	Name     string            `json:"name"`
	Status   string            `json:"status"`
	VolumeID string            `json:"volume_id"`
	Size     int               `json:"size"`
	Created  stamp             `json:"created_at"`
	Metadata map[string]string `json:"metadata"`
}

func (w wireSnapshot) snapshot() Snapshot {
	return Snapshot{
		ID: w.ID, Name: w.Name, Status: w.Status, VolumeID: w.VolumeID, Size: w.Size,
		CreatedAt: time.Time(w.Created), Metadata: w.Metadata,
	}
}

// Snapshot reads a snapshot. Kind NotFound: Cinder does not know it.
func (c *Cloud) Snapshot(ctx context.Context, id string) (Snapshot, error) {
	if !known(id) {
		return Snapshot{}, unknown("snapshot", id)
	}
	var answer struct {
		Snapshot wireSnapshot `json:"snapshot"`
	}
	k := call{
		service: blockStorage, name: "snapshot_get", what: "reading snapshot " + id, objects: []string{id},
		method: "GET", path: "snapshots/" + id, into: &answer, key: "snapshot",
	}
	if err := c.do(ctx, k); err != nil {
		return Snapshot{}, err
	}
	return answer.Snapshot.snapshot(), describes(k, answer.Snapshot.ID, id)
}

// SnapshotsNamed returns the snapshots of that very name; Cinder allows several.
func (c *Cloud) SnapshotsNamed(ctx context.Context, name string) ([]Snapshot, error) {
	var found []Snapshot
	for marker := ""; ; {
		page, next, err := c.listSnapshots(ctx, "snapshots named "+name, url.Values{"name": {name}, "marker": {marker}})
		if err != nil {
			return nil, err
		}
		for _, s := range page {
			if s.Name == name {
				found = append(found, s)
			}
		}
		if next == "" || next == marker {
			return found, nil
		}
		marker = next
	}
}

// SnapshotPage selects a part of the project's snapshots.
type SnapshotPage struct {
	Marker   string // id of the last snapshot of the page before; empty: from the start
	Limit    int    // at most so many; 0: as many as Cinder gives
	VolumeID string // only those of one volume; empty: all
}

// Snapshots reads one page of the project's snapshots, oldest first, and the
// marker of the next ("" after the last). Kind Stale: the marker's snapshot is
// gone.
func (c *Cloud) Snapshots(ctx context.Context, page SnapshotPage) (ss []Snapshot, next string, err error) {
	params := url.Values{"marker": {page.Marker}, "volume_id": {page.VolumeID}, "sort": {"created_at:asc,id:asc"}}
	if page.Limit > 0 {
		params.Set("limit", strconv.Itoa(page.Limit))
	}
	return c.listSnapshots(ctx, "snapshots", params)
}

func (c *Cloud) listSnapshots(ctx context.Context, what string, params url.Values) ([]Snapshot, string, error) {
	var answer struct {
		Snapshots []wireSnapshot `json:"snapshots"`
		Links     []link         `json:"snapshots_links"`
	}
	err := c.do(ctx, call{
		service: blockStorage, name: "snapshot_list", what: "listing " + what, objects: params["marker"],
		method: "GET", path: query("snapshots/detail", params), into: &answer, key: "snapshots",
	})
	if err != nil {
		return nil, "", stale(err, params.Get("marker"))
	}
	ss := make([]Snapshot, len(answer.Snapshots))
	for i, w := range answer.Snapshots {
		ss[i] = w.snapshot()
	}
	if more(answer.Links) && len(ss) > 0 {
		return ss, ss[len(ss)-1].ID, nil
	}
	return ss, "", nil
}

// NewSnapshot is what CreateSnapshot makes.
type NewSnapshot struct {
	Name, Description string
	VolumeID          string
	Metadata          map[string]string
	// Force takes the snapshot also of a volume in use. Clouds with the feature
	// SnapshotInUse do so anyway; there it makes no difference.
	Force bool
}

// CreateSnapshot asks for a snapshot, which Cinder then takes on its own. It is
// never repeated when the answer got lost: look for the name first.
func (c *Cloud) CreateSnapshot(ctx context.Context, s NewSnapshot) (Snapshot, error) {
	if !known(s.VolumeID) {
		return Snapshot{}, unknown("volume", s.VolumeID)
	}
	request := map[string]any{"volume_id": s.VolumeID, "name": s.Name, "description": s.Description}
	if len(s.Metadata) > 0 {
		request["metadata"] = s.Metadata
	}
	k := call{
		service: blockStorage, name: "snapshot_create", what: fmt.Sprintf("taking snapshot %s of volume %s", s.Name, s.VolumeID),
		method: "POST", path: "snapshots", body: map[string]any{"snapshot": request}, key: "snapshot", ok: []int{200, 202},
		objects: []string{s.VolumeID},
	}
	if s.Force {
		if c.CheckFeature(ctx, FeatureSnapshotInUse) == nil {
			k.needs = FeatureSnapshotInUse.need()
		} else {
			request["force"] = true
		}
	}
	var answer struct {
		Snapshot wireSnapshot `json:"snapshot"`
	}
	k.into = &answer
	err := c.do(ctx, k)
	return answer.Snapshot.snapshot(), err
}

// DeleteSnapshot asks for the deletion of a snapshot, which Cinder then does on
// its own. Kinds: NotFound, Precondition (volumes depend on it).
func (c *Cloud) DeleteSnapshot(ctx context.Context, id string) error {
	if !known(id) {
		return unknown("snapshot", id)
	}
	return c.do(ctx, call{
		service: blockStorage, name: "snapshot_delete", what: "deleting snapshot " + id, method: "DELETE", path: "snapshots/" + id, objects: []string{id},
	})
}
