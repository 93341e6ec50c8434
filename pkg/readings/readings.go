// Package readings is what the plugins answer at /volumes: for each volume the size of each layer,
// how full its filesystem is, and when each of them was read. growvol-operator and
// `kubectl growvol` read it through the API server.
//
// readings.go has the format of the requests and of the answer. Package endpoint serves it, and
// package client reads it.
package readings

import (
	"time"

	"github.com/growvol/growvol/pkg/volume"
)

// Path is the path of the answer, on the port that the pods of a plugin name Port.
const (
	Path = "/volumes"
	Port = "volumes"
)

// TokenHeader is the header of the request that has a token of the API server. The API server
// removes the header Authorization before it passes a request on.
const TokenHeader = "Growvol-Token"

// IDParameter is the parameter of the query that names a volume. It may be repeated, at most MaxIDs
// times. Without it, a node answers with all its volumes.
const (
	IDParameter = "id"
	MaxIDs      = 100
)

// AccountSuffix ends the name of the ServiceAccount whose tokens may read. The accounts of the
// plugins of the same release end in "-node" and "-controller".
const AccountSuffix = "-readings"

// The bodies of all answers to a request that may not read, and to one that could not be reviewed.
// They have no cause: they go to callers whose rights are not known.
const (
	Refusal      = "the header " + TokenHeader + " has no token of the API server that may get " + Path
	ReviewFailed = "the API server did not review the token in the header " + TokenHeader
)

// Answer is the body of a successful answer, as JSON.
type Answer struct {
	Driver  string   `json:"driver"`         // name of the CSI driver
	Node    string   `json:"node,omitempty"` // node id, as NodeGetInfo answers; empty: the controller
	Version string   `json:"version"`        // of the plugin
	Volumes []Volume `json:"volumes"`
}

// Volume returns the volume of the id, or nil if the answer has none.
func (a *Answer) Volume(id string) *Volume {
	for i := range a.Volumes {
		if a.Volumes[i].ID == id {
			return &a.Volumes[i]
		}
	}
	return nil
}

// Volume is one volume: on a node those that are staged there, on the controller those that the
// caller names.
type Volume struct {
	ID     string  `json:"id"`
	Staged string  `json:"staged,omitempty"` // staging path
	Layers []Layer `json:"layers,omitempty"` // from the volume down to the filesystem
	Usage  *Usage  `json:"usage,omitempty"`  // nil: a raw block volume, or not read
	// Problem says why the volume could not be read. What was read before stays, with its time.
	Problem string `json:"problem,omitempty"`
}

// Layer returns the layer of the name, or nil if it was not read.
func (v *Volume) Layer(name LayerName) *Layer {
	for i := range v.Layers {
		if v.Layers[i].Name == name {
			return &v.Layers[i]
		}
	}
	return nil
}

// LayerName names a layer below Kubernetes.
type LayerName string

// The layers, as `kubectl growvol status` shows them.
const (
	LayerVolume     LayerName = "volume"     // in the storage system; only the controller reads it
	LayerDevice     LayerName = "device"     // the kernel's block device
	LayerMapping    LayerName = "mapping"    // dm-crypt
	LayerFilesystem LayerName = "filesystem" // as its superblock says
)

// Layer is the size of one layer.
type Layer struct {
	Name   LayerName   `json:"name"`
	Size   volume.Size `json:"sizeBytes"`
	Detail string      `json:"detail,omitempty"` // "/dev/vdc", "ext4", "attached to 3c1f…"
	ReadAt time.Time   `json:"readAt"`           // when the reading began
}

// Usage is how full a filesystem is, as statfs(2) answers.
type Usage struct {
	Filesystem      string      `json:"filesystem"` // ext4, xfs, …
	Total           volume.Size `json:"totalBytes"` // without the filesystem's own data
	Available       volume.Size `json:"availableBytes"`
	Used            volume.Size `json:"usedBytes"`
	Inodes          int64       `json:"inodes,omitempty"` // 0: not known
	InodesAvailable int64       `json:"inodesAvailable,omitempty"`
	ReadAt          time.Time   `json:"readAt"` // when the reading began
}
