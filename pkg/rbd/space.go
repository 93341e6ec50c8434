package rbd

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/rbdcsi"
	"github.com/growvol/growvol/pkg/volume"
)

// This file holds what is checked before a pool is written to. Writing to a full pool is not
// answered until a timeout, as if the cluster did not work.

// checkSpace returns an error of kind OutOfRange if the pool of an image, or its data pool, is full
// or has a quota below size.
func (s *session) checkSpace(l rbdcsi.Location, dataPool string, size volume.Size) error {
	pools := []string{l.Pool}
	if dataPool != "" && dataPool != l.Pool {
		pools = append(pools, dataPool)
	}
	for _, pool := range pools {
		usage, err := s.poolUsage(l.Cluster, pool)
		if err != nil {
			return err
		}
		quota := volume.Size(usage.QuotaBytes)
		switch {
		case usage.IsFull:
			return volume.Errorf(volume.KindOutOfRange,
				"pool %s of cluster %s is full (%s): it stores %s and has a quota of %s; %s cannot be added",
				pool, l.Cluster, strings.Join(usage.Flags, ", "), volume.Size(usage.Stored), quotaText(quota), size).
				WithRemedy("ask the administrator of the cluster for more space: ceph df; ceph osd pool get-quota " + pool)
		case quota > 0 && size > quota:
			return volume.Errorf(volume.KindOutOfRange,
				"the requested size %s is above the quota %s of pool %s of cluster %s", size, quota, pool, l.Cluster).
				WithRemedy("request at most " + quota.String() + ", or ask the administrator of the cluster to raise the " +
					"quota: ceph osd pool set-quota " + pool + " max_bytes BYTES")
		}
	}
	return nil
}

// explainTimeout returns the reason if a call that writes timed out because the pool has become full
// since checkSpace: the monitors mark a pool as full up to a minute after it is. Otherwise it returns
// err.
func (s *session) explainTimeout(err error, l rbdcsi.Location, dataPool string, size volume.Size) error {
	if !errors.Is(err, unix.ETIMEDOUT) {
		return err
	}
	if reason := s.checkSpace(l, dataPool, size); volume.IsKind(reason, volume.KindOutOfRange) {
		return reason
	}
	return err
}

func quotaText(quota volume.Size) string {
	if quota == 0 {
		return "no limit"
	}
	return quota.String()
}

// poolUsage reads the space of a pool.
func (s *session) poolUsage(clusterID, pool string) (ceph.PoolUsage, error) {
	usage, err := s.cluster.PoolUsage(pool)
	if errors.Is(err, unix.ENOENT) {
		return usage, poolMissingError(rbdcsi.Location{Cluster: clusterID, Pool: pool}, err)
	}
	if err != nil {
		return usage, fmt.Errorf("cannot read the space of pool %s of cluster %s: %w", pool, clusterID, err)
	}
	return usage, nil
}
