// Package volumedir defines the directory in which the loop backend keeps its volumes:
// where the files of each volume and snapshot are, how they are read, and how they are
// locked across processes. The controller's half (package loop) writes the directory;
// the node's half (package loopdev) only reads it.
//
//	volumes/<id>/data             the content; the file's length is the volume's size
//	volumes/<id>/meta.json        Record: name, source
//	volumes/<id>/attachment.json  Attachment, if the volume is attached
//	snapshots/<id>/...            data and meta.json
//	pending/<id>/...              an object that is being created or removed
//
// An object exists from the rename of its complete directory out of pending to the
// rename back into it. Work on one object is serialized by flock(2) on its directory.
package volumedir

import (
	"crypto/sha256"
	"encoding/hex"
	"path/filepath"
	"strings"
)

// Names within the directory.
const (
	PendingDir = "pending"
	DataFile   = "data"
	RecordFile = "meta.json"
	// AttachmentFile holds the attachment alone, so that a detachment only removes a
	// file: a full filesystem has no space to rewrite one.
	AttachmentFile = "attachment.json"
)

// Collection is a kind of object and the name of the directory that holds the objects.
type Collection string

// The collections.
const (
	Volumes   Collection = "volumes"
	Snapshots Collection = "snapshots"
)

// idBytes is how many bytes of the name's SHA-256 an id holds: enough that no two
// names share them.
const idBytes = 16

func (c Collection) prefix() string {
	if c == Snapshots {
		return "snap-"
	}
	return "vol-"
}

// Noun returns the word for one object of the collection, for messages.
func (c Collection) Noun() string { return strings.TrimSuffix(string(c), "s") }

// ID derives the id of an object from its name, so that a repeated creation finds the
// first object without a search.
func (c Collection) ID(name string) string {
	sum := sha256.Sum256([]byte(name))
	return c.prefix() + hex.EncodeToString(sum[:idBytes])
}

// IsID reports whether id has the form of an id of this collection. No other string may
// become part of a path.
func (c Collection) IsID(id string) bool {
	digits, found := strings.CutPrefix(id, c.prefix())
	return found && len(digits) == 2*idBytes && strings.Trim(digits, "0123456789abcdef") == ""
}

// Dir is the path of the directory.
type Dir string

// CollectionPath returns the directory of a collection.
func (d Dir) CollectionPath(c Collection) string { return filepath.Join(string(d), string(c)) }

// Path returns the directory of an object.
func (d Dir) Path(c Collection, id string) string { return filepath.Join(d.CollectionPath(c), id) }

// DataPath returns the file with an object's content.
func (d Dir) DataPath(c Collection, id string) string { return filepath.Join(d.Path(c, id), DataFile) }

// PendingPath returns the directory in which an object is created or removed.
func (d Dir) PendingPath(id string) string { return filepath.Join(string(d), PendingDir, id) }
