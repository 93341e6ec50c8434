package fakecloud

import (
	"net/http"
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

func (c *Cloud) snapshotOf(x *exchange, id string) (*snapshot, *reply) {
	s := c.snapshots[id]
	if s == nil || (s.projectID != x.token.projectID() && !x.token.has("admin")) {
		return nil, faultf(http.StatusNotFound, "Snapshot %s could not be found.", id)
	}
	return s, nil
}
