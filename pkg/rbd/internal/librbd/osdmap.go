//go:build ceph

package librbd

import (
	"context"
	"errors"

	"github.com/ceph/go-ceph/rados"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/internal/placement"
)

// This file makes the storage daemons take the newest map of the cluster.
//
// A monitor that has accepted a change of the blocklist sends the map to a few daemons, which pass
// it on. A daemon that has not received it goes on serving the fenced client. Each placement group
// has its own current map: it lets an operation wait until it has the map of the client that sent
// it, and only then compares the sender with the blocklist (PrimaryLogPG::do_request and do_op). So
// an answer of a placement group to a client with the new map proves that this group no longer
// serves the fenced client. The epoch that a daemon reports proves less, and needs rights that
// `profile rbd` does not give. Only the primary daemon of a group takes writes, and a later primary
// has a later map. A group that is split passes its map on.

const (
	// mapReaders bounds the reads of one AwaitMap at a time: each occupies a thread, until the
	// time-out if the daemon does not answer.
	mapReaders = 4
	// hashRJenkins is the number of the hash function of package placement.
	hashRJenkins = 2
	// probePrefix begins the names of objects that are read and never exist.
	probePrefix = "growvol-map-"
)

// AwaitMap implements ceph.Pool.
func (p *pool) AwaitMap() error {
	c := p.connection
	if err := c.conn.WaitForLatestOSDMap(); err != nil {
		return wrap(err, "read the map of Ceph cluster %s", c.id)
	}
	detail, err := c.poolDetail(p.key.name)
	if err != nil {
		return err
	}
	if detail.Hash != hashRJenkins {
		return wrap(unix.EOPNOTSUPP, "reach every placement group of pool %s of Ceph cluster %s: it has the hash function %d",
			p.key.name, c.id, detail.Hash)
	}
	all, failed := errgroup.WithContext(context.Background())
	all.SetLimit(mapReaders)
	for group, name := range placement.Probes(probePrefix, p.key.namespace, detail.Groups) {
		all.Go(func() error {
			if failed.Err() != nil {
				return nil //nolint:nilerr // Wait returns the error of the group that has not answered
			}
			_, err := p.io.Stat(name)
			if errors.Is(err, rados.ErrNotFound) {
				return nil
			}
			return wrap(err, "read from placement group %d.%x of pool %s of Ceph cluster %s", p.id, group, p.key.name, c.id)
		})
	}
	return all.Wait()
}
