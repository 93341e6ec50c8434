package rbd

import (
	"context"
)

// This file holds whether the backend works, and the defects of volumes.

// CheckHealth implements volume.HealthChecker.
func (b *Backend) CheckHealth(context.Context) error {
	_, err := b.opts.Clusters.IDs()
	return err
}
