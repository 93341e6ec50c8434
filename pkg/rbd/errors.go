package rbd

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/cluster"
	"github.com/growvol/growvol/pkg/rbdcsi"
	"github.com/growvol/growvol/pkg/volume"
)

// This file holds what errors of Ceph mean: the table of errno, kind and next step. ENOENT and
// EBUSY are not in it: only the caller knows which object is missing or in use.

// retryRemedy is the next step when Kubernetes calls again anyway.
const retryRemedy = "no action needed: Kubernetes retries this automatically"

// userCaps are the capabilities of the controller's user, in arguments of `ceph auth`, as the
// documentation has them. `profile rbd` may make and list fences; removing one is an extra command.
const userCaps = `mon 'profile rbd, allow command "osd blocklist" with blocklistop=rm' osd 'profile rbd pool=POOL'`

// meaning is the kind and the next step of an errno.
type meaning struct {
	kind   volume.Kind
	remedy string
}

// meanings returns what errnos mean for a client of that user.
func meanings(user string) map[unix.Errno]meaning {
	denied := meaning{volume.KindDenied, "give the user the capabilities that the driver needs, for each pool POOL of " +
		"its volumes: ceph auth caps client." + user + " " + userCaps}
	unreachable := meaning{volume.KindUnavailable, retryRemedy + "; if it lasts, check the cluster: ceph -s"}
	full := meaning{
		volume.KindOutOfRange, "request less storage, or ask the administrator of the cluster for more: ceph df",
	}
	return map[unix.Errno]meaning{
		unix.EPERM: denied, unix.EACCES: denied,
		unix.ETIMEDOUT: unreachable, unix.ENOTCONN: unreachable, unix.ECONNREFUSED: unreachable,
		unix.EAGAIN: unreachable, unix.EIO: unreachable, unix.ESTALE: unreachable,
		unix.ESHUTDOWN: {volume.KindUnavailable, "no action needed: the driver connects again with the next retry"},
		unix.EDQUOT:    full, unix.ENOSPC: full,
	}
}

// withKind gives an error of Ceph the kind and the next step of its errno. An error that has a kind
// is returned unchanged.
func (s *session) withKind(err error) error {
	var e *volume.Error
	var errno unix.Errno
	if err == nil || errors.As(err, &e) || !errors.As(err, &errno) {
		return err
	}
	m, ok := meanings(s.config.User)[errno]
	if !ok {
		return volume.Errorf(volume.KindInternal, "%s failed: %w", s.task.what, err)
	}
	return volume.Errorf(m.kind, "%s failed: %w", s.task.what, err).WithRemedy(m.remedy)
}

// connectError is the error for a cluster to which no connection was made.
func connectError(err error, c cluster.Cluster) error {
	kind, remedy := volume.KindUnavailable, retryRemedy+"; if it lasts, check the monitors of the cluster in the "+
		"configuration, and that this pod reaches them: "+strings.Join(c.Monitors, ", ")
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
		kind, remedy = volume.KindUnauthenticated, "put the key of the user into the Secret of the driver: "+
			"ceph auth get-key client."+c.User
	}
	return volume.Errorf(kind, "cannot connect to cluster %s as client.%s: %w", c.ID, c.User, err).WithRemedy(remedy)
}

// poolMissingError is the error for a pool that does not exist. Its kind is not NotFound: a volume
// of the pool may exist in the cluster that the configuration had before.
func poolMissingError(l rbdcsi.Location, cause error) error {
	return volume.Errorf(volume.KindUnavailable, "cluster %s has no pool %s: %w", l.Cluster, l.Pool, cause).
		WithRemedy("check the pool with `ceph osd pool ls` and the monitors of the cluster in the configuration")
}

// imageMissingError is the error for an image that the cluster says does not exist.
func imageMissingError(h rbdcsi.VolumeHandle, cause error) error {
	return volume.Errorf(volume.KindNotFound, "pool %s of cluster %s has no image %s: %w",
		poolAndNamespace(h.Location), h.Cluster, h.Image, cause)
}

func poolAndNamespace(l rbdcsi.Location) string {
	if l.Namespace == "" {
		return l.Pool
	}
	return l.Pool + "/" + l.Namespace
}
