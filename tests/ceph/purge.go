package ceph

import (
	"context"
	"strings"
	"time"

	"github.com/growvol/growvol/pkg/operation"
)

// This file removes what a killed test has left in Ceph.

// Purge ends a pause of Ceph and the quotas of its pools, removes all images of the pools, and ends
// all fences.
func (r *Rig) Purge(ctx context.Context) error {
	if _, err := r.Tool(ctx, "ceph", "osd", "unpause"); err != nil {
		return err
	}
	for _, pool := range []string{Pool, OtherPool, SmallPool} {
		if _, err := r.Tool(ctx, "ceph", "osd", "pool", "set-quota", pool, "max_bytes", "0"); err != nil {
			return err
		}
	}
	for _, pool := range []string{Pool, OtherPool, SmallPool, SanityPool, Pool + "/" + Namespace} {
		if err := r.removeImages(ctx, pool); err != nil {
			return err
		}
	}
	// The removal of an image breaks the lock of a client that no longer answers, and fences it.
	_, err := r.Tool(ctx, "ceph", "osd", "blocklist", "clear")
	return err
}

// removeImages removes all images of a pool. A pass may meet a parent before its clones, which only
// the next pass removes then, and images whose clients were killed, which Ceph forgets 30 s later.
func (r *Rig) removeImages(ctx context.Context, pool string) error {
	for {
		left, err := r.Tool(ctx, "rbd", "ls", pool)
		if err != nil || left == "" {
			return err
		}
		for name := range strings.FieldsSeq(left) {
			_, _ = r.Tool(ctx, "rbd", "snap", "purge", "--no-progress", pool+"/"+name) // rm reports what is left
			if _, rmErr := r.Tool(ctx, "rbd", "rm", "--no-progress", pool+"/"+name); rmErr != nil {
				err = rmErr
			}
		}
		if err != nil && operation.Sleep(ctx, time.Second) != nil {
			return err
		}
	}
}
