// Package volume holds the domain types of growvol: volumes, snapshots, sizes and
// topology, the interfaces that a storage backend (Backend and its optional companions)
// and a node connector (Connector) implement, and the kinds of error. Every other
// package builds on it; it imports nothing but the standard library.
package volume

import (
	"maps"
	"slices"
	"time"
)

// Topology is one place from which a volume can be reached: segment keys
// (such as "topology.loop.growvol.io/node") and their values.
type Topology map[string]string

// IsWithin tells whether t lies in other: every segment of other has the same
// value in t. An empty other contains everything.
func (t Topology) IsWithin(other Topology) bool {
	for k, v := range other {
		if t[k] != v {
			return false
		}
	}
	return true
}

// AccessMode says who may use a volume at the same time and how (CSI v1.13,
// VolumeCapability.AccessMode).
type AccessMode uint8

// The access modes of the CSI specification.
const (
	AccessUnknown AccessMode = iota
	AccessSingleNodeWriter
	AccessSingleNodeReaderOnly
	AccessSingleNodeSingleWriter
	AccessSingleNodeMultiWriter
	AccessMultiNodeReaderOnly
	AccessMultiNodeSingleWriter
	AccessMultiNodeMultiWriter
)

// String returns the mode's name as the CSI specification spells it.
func (m AccessMode) String() string {
	names := [...]string{
		"UNKNOWN", "SINGLE_NODE_WRITER", "SINGLE_NODE_READER_ONLY", "SINGLE_NODE_SINGLE_WRITER", "SINGLE_NODE_MULTI_WRITER",
		"MULTI_NODE_READER_ONLY", "MULTI_NODE_SINGLE_WRITER", "MULTI_NODE_MULTI_WRITER",
	}
	if int(m) < len(names) {
		return names[m]
	}
	return "UNKNOWN"
}

// IsMultiNode tells whether the mode lets more than one node use the volume.
func (m AccessMode) IsMultiNode() bool { return m >= AccessMultiNodeReaderOnly }

// IsReadOnly tells whether the mode forbids writing.
func (m AccessMode) IsReadOnly() bool {
	return m == AccessSingleNodeReaderOnly || m == AccessMultiNodeReaderOnly
}

// Access is one way in which a volume is to be used.
type Access struct {
	Mode       AccessMode
	Block      bool     // raw block device rather than a mounted filesystem
	FSType     string   // wanted filesystem; empty: the driver's default
	MountFlags []string // mount options of the class
}

// IsShared tells whether several nodes may use the volume in this way at the
// same time. One that writes to a filesystem destroys it for the others that
// have mounted it, whatever the mode says: the filesystems here are all made
// for one node.
func (a Access) IsShared() bool { return a.Mode.IsMultiNode() && (a.Block || a.Mode.IsReadOnly()) }

// EncryptedKey is the StorageClass parameter that has the node encrypt a volume,
// and the key of the volume context that tells the node so. Its value is "true"
// in both; a class may also say "false".
const EncryptedKey = "encrypted"

// EncryptionHeaderSize is what the LUKS2 header takes of a volume that the node has
// encrypted: a mapping has so much less than its device.
const EncryptionHeaderSize = 16 * MiB

// MkfsOptionsKey is the StorageClass parameter, and the key of the volume
// context, for extra options of mkfs (see capability.MkfsOptions).
const MkfsOptionsKey = "mkfsOptions"

// Source is what a new volume gets its content from; at most one is set.
type Source struct {
	SnapshotID string
	VolumeID   string
}

// IsEmpty tells whether the volume starts blank.
func (s Source) IsEmpty() bool { return s == Source{} }

// Volume is a volume as its backend read it, never as it was asked for.
type Volume struct {
	ID            string
	Name          string // the name the creator chose; unique per backend
	Size          Size   // as read back from the backend
	Source        Source
	Topology      []Topology        // places it can be reached from; empty: anywhere
	VolumeContext map[string]string // handed to the node, unchanged, at stage and publish
	// Encrypted says that the volume was made for encryption on the node
	// (CreateRequest.Encrypted). The controller tells the node so under
	// EncryptedKey; it is not in Context.
	Encrypted bool
	Nodes     []string // nodes it is attached to; only backends that implement Attacher fill it
	// AccessModes are the modes this very volume allows (a volume type may be
	// shareable); empty: those of the backend.
	AccessModes []AccessMode
}

// Clone returns a copy that shares nothing with v.
func (v Volume) Clone() Volume {
	v.Topology = slices.Clone(v.Topology)
	for i, t := range v.Topology {
		v.Topology[i] = maps.Clone(t)
	}
	v.VolumeContext = maps.Clone(v.VolumeContext)
	v.Nodes = slices.Clone(v.Nodes)
	v.AccessModes = slices.Clone(v.AccessModes)
	return v
}

// Snapshot is a point-in-time copy as its backend read it.
type Snapshot struct {
	ID       string
	Name     string
	VolumeID string // the volume it was taken of
	Size     Size   // the least size of a volume restored from it
	Created  time.Time
	Ready    bool // usable as a source
}
