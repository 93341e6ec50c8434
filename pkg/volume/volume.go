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

// Topology is one place from which a volume can be reached (CSI v1.13, Topology): segment
// keys, such as "topology.loop.growvol.io/node", and their values.
type Topology map[string]string

// IsWithin reports whether t lies in other: t has every segment of other with the same
// value. Every place lies in an empty other.
func (t Topology) IsWithin(other Topology) bool {
	for k, v := range other {
		if t[k] != v {
			return false
		}
	}
	return true
}

// AccessMode says how many nodes may use a volume at the same time, and how (CSI v1.13,
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

// IsMultiNode reports whether more than one node may use the volume.
func (m AccessMode) IsMultiNode() bool { return m >= AccessMultiNodeReaderOnly }

// IsReadOnly reports whether the mode forbids writing.
func (m AccessMode) IsReadOnly() bool {
	return m == AccessSingleNodeReaderOnly || m == AccessMultiNodeReaderOnly
}

// Access is one way in which a volume is to be used.
type Access struct {
	Mode       AccessMode
	Block      bool     // raw block device rather than a mounted filesystem
	FSType     string   // the requested filesystem; empty: the driver's default
	MountFlags []string // mount options of the class
}

// IsShared reports whether several nodes may use the volume in this way at the same time.
// That excludes a writable filesystem whatever the mode says: ext2/3/4, XFS and btrfs are
// made for one node, and a second node that writes destroys the filesystem.
func (a Access) IsShared() bool { return a.Mode.IsMultiNode() && (a.Block || a.Mode.IsReadOnly()) }

// NeedsReadOnlyDevice reports whether the device itself must refuse writes. It must not for a
// filesystem that one node alone reads: after an unclean end the kernel replays the journal before
// it can read.
func (a Access) NeedsReadOnlyDevice() bool {
	return a.Mode.IsReadOnly() && (a.Block || a.Mode.IsMultiNode())
}

// EncryptedKey is the StorageClass parameter ("true" or "false") for encryption on the node,
// and the key of the volume context ("true") that tells the node to encrypt the volume.
const EncryptedKey = "encrypted"

// EncryptionHeaderSize is the size of the LUKS2 header of a volume that the node encrypts.
// The mapping is smaller than the device by this size.
const EncryptionHeaderSize = 16 * MiB

// MkfsOptionsKey is the StorageClass parameter and the key of the volume context for extra
// options of mkfs (see capability.SplitMkfsOptions).
const MkfsOptionsKey = "mkfsOptions"

// Source names the snapshot or volume whose content a new volume gets; at most one is set.
type Source struct {
	SnapshotID string
	VolumeID   string
}

// IsEmpty reports whether the new volume has no source.
func (s Source) IsEmpty() bool { return s == Source{} }

// Volume describes a volume as its backend read it, never as it was requested.
type Volume struct {
	ID            string
	Name          string // CreateRequest.Name of its creation; unique per backend
	Size          Size   // as read back from the backend
	Source        Source
	Topology      []Topology        // from where it can be reached; empty: everywhere
	VolumeContext map[string]string // for the node, which gets it unchanged at stage and publish
	// Encrypted: the node encrypts the volume (CreateRequest.Encrypted). The controller adds
	// EncryptedKey to the volume context; the backend does not.
	Encrypted bool
	Nodes     []string // nodes it is attached to; only backends that implement Attacher fill it
	// AccessModes are the modes that this volume allows (a volume type may be shareable);
	// empty: the modes of the backend.
	AccessModes []AccessMode
}

// Clone returns a copy that shares no map or slice with v.
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

// Snapshot describes a point-in-time copy of a volume as its backend read it.
type Snapshot struct {
	ID       string
	Name     string
	VolumeID string // the volume that it copies
	Size     Size   // the minimum size of a volume restored from it
	Created  time.Time
	Ready    bool   // usable as a source
	GroupID  string // the group snapshot that it is part of; empty: none, or the backend does not say
}
