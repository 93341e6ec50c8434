package fakebackend

import (
	"context"

	"github.com/growvol/growvol/pkg/volume"
)

// Nop is a backend that does nothing and succeeds at once, for benchmarks of the layers
// above a backend.
type Nop struct{}

// Limits implements volume.Backend.
func (Nop) Limits() volume.Limits { return volume.Limits{Granularity: volume.GiB} }

// AccessModes implements volume.Backend.
func (Nop) AccessModes() []volume.AccessMode {
	return []volume.AccessMode{volume.AccessSingleNodeWriter}
}

// HasTopology implements volume.Backend.
func (Nop) HasTopology() bool { return false }

// CheckHealth implements volume.Backend.
func (Nop) CheckHealth(context.Context) error { return nil }

// Find implements volume.Backend.
func (Nop) Find(context.Context, volume.CreateRequest) (volume.Volume, bool, error) {
	return volume.Volume{}, false, nil
}

// Create implements volume.Backend.
func (Nop) Create(_ context.Context, req volume.CreateRequest) (volume.Volume, error) {
	return volume.Volume{ID: req.Name, Size: req.Size}, nil
}

// Delete implements volume.Backend.
func (Nop) Delete(context.Context, string) error { return nil }

// Get implements volume.Backend.
func (Nop) Get(_ context.Context, id string) (volume.Volume, error) {
	return volume.Volume{ID: id, Size: volume.GiB}, nil
}

// Expand implements volume.Backend.
func (Nop) Expand(_ context.Context, id string, target volume.Size) (volume.Volume, error) {
	return volume.Volume{ID: id, Size: target}, nil
}
