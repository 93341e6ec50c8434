// Package metadata encodes what the driver keeps in the metadata of an image (`rbd image-meta`):
// JSON values, which stay with the image when it is renamed.
package metadata

import (
	"encoding/json"
	"fmt"

	"github.com/growvol/growvol/pkg/volume"
)

// Key is the key of the record of a volume.
const Key = "growvol.io/volume"

// SidecarPrefix begins the parameters that the CSI sidecars add to those of a class.
const SidecarPrefix = "csi.storage.k8s.io/"

// Record says which request an image was created for. It has no handle: that is derived from the
// name of the image.
type Record struct {
	// ImageID is the id of the image that the record belongs to. A clone gets a copy of all
	// metadata of its parent: a record with another id is not that of the image.
	ImageID   string `json:"imageID"`
	Cluster   string `json:"clusterID"` // id of the cluster in the configuration
	Name      string `json:"name"`      // volume.CreateRequest.Name
	Encrypted bool   `json:"encrypted,omitempty"`
	// SourceVolume and SourceSnapshot are the ids of the source in the request.
	SourceVolume   string `json:"sourceVolume,omitempty"`
	SourceSnapshot string `json:"sourceSnapshot,omitempty"`
	// PersistentVolume and Claim (namespace/name) are the objects in Kubernetes that the volume
	// was made for, for people; external-provisioner names them. They may be empty.
	PersistentVolume string `json:"persistentVolume,omitempty"`
	Claim            string `json:"claim,omitempty"`
	// Depth is how many ancestors the image had when it was made: parents of parents.
	Depth int `json:"depth,omitempty"`
}

// New returns the record of an image that was created for the request.
func New(imageID, clusterID string, req volume.CreateRequest) Record {
	r := Record{
		ImageID: imageID, Cluster: clusterID, Name: req.Name, Encrypted: req.Encrypted,
		SourceVolume: req.Source.VolumeID, SourceSnapshot: req.Source.SnapshotID,
		PersistentVolume: req.Parameters[SidecarPrefix+"pv/name"],
	}
	if claim := req.Parameters[SidecarPrefix+"pvc/name"]; claim != "" {
		r.Claim = req.Parameters[SidecarPrefix+"pvc/namespace"] + "/" + claim
	}
	return r
}

// Source returns what the volume was made from.
func (r Record) Source() volume.Source {
	return volume.Source{VolumeID: r.SourceVolume, SnapshotID: r.SourceSnapshot}
}

// Encode returns the value of Key.
func (r Record) Encode() string {
	text, err := json.Marshal(r)
	if err != nil {
		panic(err) // strings and booleans can always be encoded
	}
	return string(text)
}

// Read returns the record of the image of that id; false: its metadata have none, so that it was
// not created by this driver, or its creation was interrupted. The error says that the record
// cannot be decoded.
func Read(imageID string, all map[string]string) (r Record, found bool, err error) {
	text, ok := all[Key]
	if !ok {
		return Record{}, false, nil
	}
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return Record{}, false, fmt.Errorf("the metadata %s of image id %s cannot be decoded: %w", Key, imageID, err)
	}
	if r.ImageID != imageID {
		return Record{}, false, nil
	}
	return r, true, nil
}
