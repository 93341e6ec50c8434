package fakecloud

import (
	"net/http"
	"time"
)

// Backup is a backup as Cinder knows it.
type Backup struct {
	ID          string
	Name        string
	Description string
	Status      string
	VolumeID    string
	SnapshotID  string
	Size        int // GiB
	Metadata    map[string]string
}

type backup struct {
	Backup
	projectID, userID string
	created, updated  time.Time
}

func (c *Cloud) backupOf(x *exchange, id string) (*backup, *reply) {
	b := c.backups[id]
	if b == nil || (b.projectID != x.token.projectID() && !x.token.has("admin")) {
		return nil, faultf(http.StatusNotFound, "Backup %s could not be found.", id)
	}
	return b, nil
}
