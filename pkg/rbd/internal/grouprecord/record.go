// Package grouprecord holds what the driver stores of a group snapshot: one small RADOS object in
// the pool of its first volume. The object is made when all snapshots have been taken together,
// so that a group snapshot exists if its object does.
package grouprecord

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/growvol/growvol/pkg/rbdcsi"
)

// prefix begins the names of the objects.
const prefix = "growvol.group."

// handlePrefix begins the last part of the handle of a group snapshot.
const handlePrefix = "group:"

// Record is the content of the object.
type Record struct {
	Name    string    `json:"name"` // volume.GroupSnapshotRequest.Name
	Created time.Time `json:"created"`
	Members []Member  `json:"members"`
}

// Member is one snapshot of the group.
type Member struct {
	SnapshotID string `json:"snapshotID"` // handle
	VolumeID   string `json:"volumeID"`   // handle
}

// Handle names a group snapshot: cluster/pool[/namespace]/group:HASH.
type Handle struct {
	rbdcsi.Location

	Hash string
}

// New returns the handle of the group snapshot of that name whose first volume is at the location.
func New(at rbdcsi.Location, name string) Handle {
	hash := sha256.Sum256([]byte(name))
	return Handle{Location: at, Hash: hex.EncodeToString(hash[:16])}
}

// String returns the handle as VolumeGroupSnapshotContents store it.
func (h Handle) String() string { return h.Location.String() + "/" + handlePrefix + h.Hash }

// Object returns the name of the object.
func (h Handle) Object() string { return prefix + h.Hash }

// Parse parses the handle of a group snapshot.
func Parse(text string) (Handle, error) {
	v, err := rbdcsi.ParseVolumeHandle(text)
	hash, ok := strings.CutPrefix(v.Image, handlePrefix)
	if err != nil || !ok || hash == "" || v.Snapshot != "" {
		return Handle{}, fmt.Errorf("%q is not cluster/pool[/namespace]/%sHASH", text, handlePrefix)
	}
	return Handle{Location: v.Location, Hash: hash}, nil
}

// Encode returns the content of the object.
func (r Record) Encode() []byte {
	text, err := json.Marshal(r)
	if err != nil {
		panic(err) // strings and times can always be encoded
	}
	return text
}

// Decode decodes the content of the object of that name.
func Decode(object string, content []byte) (Record, error) {
	var r Record
	if err := json.Unmarshal(content, &r); err != nil {
		return Record{}, fmt.Errorf("the object %s cannot be decoded: %w", object, err)
	}
	return r, nil
}
