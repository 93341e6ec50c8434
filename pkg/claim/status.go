// Package claim shows a PersistentVolumeClaim as the layers that its size passes through: request,
// claim, PersistentVolume, volume, device, mapping, filesystem. It says in one sentence what is
// stuck, since when, and what to do.
//
// The package decides; package reader below it reads the cluster. status.go has the model,
// layers.go fills it from Kubernetes' objects, diagnosis.go finds the sentence, and remedies.go
// has the tables that the page "My resize is stuck" shows too.
package claim

import (
	"time"

	"github.com/growvol/growvol/pkg/volume"
)

// LayerName names one of the places that have a size of the volume.
type LayerName string

// The layers, from the request down to the filesystem.
const (
	LayerRequest    LayerName = "request"
	LayerClaim      LayerName = "claim"
	LayerPV         LayerName = "PV"
	LayerVolume     LayerName = "volume"
	LayerDevice     LayerName = "device"
	LayerMapping    LayerName = "mapping"
	LayerFilesystem LayerName = "filesystem"
)

// LayerState is how a layer's size compares with the request.
type LayerState string

// The states of a layer.
const (
	StateOK      LayerState = "ok"
	StateWaits   LayerState = "waits"   // it grows when the layers above have grown
	StateFailed  LayerState = "FAILED"  // its growth was refused
	StateShort   LayerState = "SHORT"   // it is smaller than Kubernetes says
	StateUnknown LayerState = "unknown" // it could not be read
	StateAbsent  LayerState = "none"    // this claim has no such layer
)

// Layer is one reading of a size.
type Layer struct {
	Name   LayerName   `json:"name"`
	Size   volume.Size `json:"sizeBytes,omitempty"`
	State  LayerState  `json:"state,omitempty"`
	Source string      `json:"readFrom"` // where the size was read, with what else was read there
	ReadAt time.Time   `json:"readAt,omitzero"`
	// Problem says why the layer could not be read: the right that is missing, or the error.
	Problem string `json:"problem,omitempty"`
}

// Pod is a pod that uses the claim and has not ended.
type Pod struct {
	Name string `json:"name"`
	Node string `json:"node,omitempty"`
	// Runs reports whether a node has the pod, so that kubelet mounts the volume.
	Runs bool `json:"runs"`
}

// Condition is a condition of the claim that concerns its size.
type Condition struct {
	Type    string    `json:"type"`
	Since   time.Time `json:"since,omitzero"`
	Message string    `json:"message,omitempty"`
}

// Event is an event of the claim or of one of its pods.
type Event struct {
	Object  string    `json:"object"` // kind/name
	Reason  string    `json:"reason"`
	Message string    `json:"message"`
	Last    time.Time `json:"last,omitzero"`
	Count   int32     `json:"count,omitempty"`
}

// Usage is how full the filesystem is, as kubelet reports it.
type Usage struct {
	UsedPercent   int       `json:"usedPercent"`
	InodesPercent int       `json:"inodesPercent,omitempty"`
	ReadAt        time.Time `json:"readAt,omitzero"`
}

// Status is what is known of one claim.
type Status struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Phase     string `json:"phase"`
	Class     string `json:"class,omitempty"`
	Driver    string `json:"driver,omitempty"`
	Volume    string `json:"persistentVolume,omitempty"`
	Handle    string `json:"volumeHandle,omitempty"`
	// Step is the claim's resize status, such as NodeResizePending. It is empty if none runs.
	Step   string  `json:"step,omitempty"`
	Layers []Layer `json:"layers"`
	Usage  *Usage  `json:"usage,omitempty"`
	// Missing is how many bytes of the claim's size the filesystem lacks at least, or the device
	// of a raw block volume, by a reading that is newer than the last growth.
	Missing volume.Size `json:"missingBytes,omitempty"`
	// IsReadingOld reports that bytes are missing by a reading that is older than the last
	// growth, so that it does not say how large the filesystem is now.
	IsReadingOld bool        `json:"readingOld,omitempty"`
	Pods         []Pod       `json:"pods,omitempty"`
	Conditions   []Condition `json:"conditions,omitempty"`
	Events       []Event     `json:"events,omitempty"`
	// Problems are readings that failed and belong to no layer, such as those of the events.
	Problems  []string  `json:"problems,omitempty"`
	Diagnosis Diagnosis `json:"diagnosis"`
	ReadAt    time.Time `json:"readAt"`
}

// Layer returns the layer of the name, or one without a size if the status has none.
func (s *Status) Layer(name LayerName) Layer {
	for _, l := range s.Layers {
		if l.Name == name {
			return l
		}
	}
	return Layer{Name: name, State: StateAbsent}
}

// Filesystem returns the layer of the filesystem, or of a raw block volume that of the device.
func (s *Status) Filesystem() Layer {
	if l := s.Layer(LayerFilesystem); l.State != StateAbsent {
		return l
	}
	return s.Layer(LayerDevice)
}

// RunningPod returns the first pod that a node has.
func (s *Status) RunningPod() (Pod, bool) {
	for _, p := range s.Pods {
		if p.Runs {
			return p, true
		}
	}
	return Pod{}, false
}
