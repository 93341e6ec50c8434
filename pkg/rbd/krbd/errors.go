package krbd

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
)

// This file turns the kernel's answers into errors with a kind, a cause and a next step.

// fencedError is the error for a mapping whose client the cluster has on its blocklist.
func fencedError(m mapping) *volume.Error {
	return volume.Errorf(volume.KindPrecondition,
		"the Ceph cluster has fenced this node: the client %s of %s is on the cluster's blocklist, "+
			"so that reads and writes fail: %w", m.client, m, volume.ErrFenced).
		WithRemedy("delete the pods that use the volume on this node: the image is mapped again when the next pod starts; " +
			"find out what has fenced the client: ceph osd blocklist ls")
}

// refreshError is the error for a mapping that could not be refreshed.
func refreshError(m mapping, err error) error {
	kind := volume.KindOf(err)
	if kind == volume.KindInternal {
		kind = volume.KindUnavailable
	}
	return volume.Errorf(kind, "cannot read the size of %s from the Ceph cluster: %w", m, err).
		WithRemedy(retryRemedy + "check the network between this node and the cluster, and the state of the cluster: ceph status")
}

// mapError returns the error for a mapping that the kernel refused; nil for nil.
func mapError(r mapRequest, err error) error {
	if err == nil {
		return nil
	}
	cause := explainMapErrno(r, err)
	return volume.Errorf(cause.kind, "cannot map the image %s of Ceph cluster %s: %s: %w",
		r.target, r.cluster.ID, cause.text, err).WithRemedy(cause.remedy)
}

// explanation is the meaning of an errno.
type explanation struct {
	kind         volume.Kind
	text, remedy string
}

// explainMapErrno explains the answers of the kernel (Linux, drivers/block/rbd.c and net/ceph; the
// errnos were observed with Linux 6.1).
func explainMapErrno(r mapRequest, err error) explanation {
	user := "client." + r.cluster.User
	for errno, e := range map[unix.Errno]explanation{
		unix.ENOENT: {
			volume.KindPrecondition, "the pool, the namespace, the image or the snapshot does not exist under this name",
			fmt.Sprintf("check: rbd info %s; an image that was renamed is found after the volume was detached and attached again",
				r.target),
		},
		unix.ENXIO: {
			volume.KindPrecondition, "the kernel of this node does not support a feature of the image",
			fmt.Sprintf("compare the features (rbd info %s) with those in the kernel log of this node "+
				"(journalctl --dmesg --grep rbd); journaling can be disabled: rbd feature disable %s journaling", r.target, r.target),
		},
		unix.EINVAL: {
			volume.KindPrecondition, "the kernel refuses the options, the key or the object map of the image",
			logRemedy + fmt.Sprintf("; an object map of a wrong size is made again by: rbd object-map rebuild %s", r.target),
		},
		unix.EROFS: {
			volume.KindPrecondition, "another client has the image mapped exclusively",
			fmt.Sprintf("find the client with: rbd status %s; and unmap the image there", r.target),
		},
		unix.ESHUTDOWN: {
			volume.KindPrecondition, "the cluster has fenced this node: also a new client is on the blocklist",
			"find the entry with the address of this node, and remove it once no node uses its volumes any more: " +
				"ceph osd blocklist ls; ceph osd blocklist rm ENTRY",
		},
		unix.ETIMEDOUT: {
			volume.KindUnavailable, fmt.Sprintf("the cluster has not answered (monitors %s)", r.cluster.MonHost()),
			retryRemedy + "check the network between this node and the monitors, and the state of the cluster: ceph status",
		},
		unix.EPERM: {
			volume.KindDenied, "the cluster or the kernel refuses the user " + user,
			"compare the key and the capabilities of the user with: ceph auth get " + user +
				"; the plugin itself needs CAP_SYS_ADMIN",
		},
		unix.EACCES: {
			volume.KindDenied, "the cluster refuses the user " + user,
			"compare the key and the capabilities of the user with: ceph auth get " + user,
		},
		unix.ENODEV: {
			volume.KindUnavailable, "the kernel has no keys of the type ceph", "load the module on the node: modprobe rbd",
		},
	} {
		if errors.Is(err, errno) {
			return e
		}
	}
	return explanation{volume.KindInternal, "the kernel refuses it", retryRemedy + logRemedy}
}
