package ceph

import "time"

// Quiescer is implemented by images that can be snapshotted together with others.
type Quiescer interface {
	// CreateQuiescedSnapshot is CreateSnapshot with a moment in which no other client can write: it
	// takes the exclusive lock, calls quiesced, and takes the snapshot unless quiesced fails. No
	// write of another client ends between the beginning of quiesced and the snapshot. The writes
	// wait, and go on afterwards. It returns the error of quiesced unchanged, and then has taken no
	// snapshot. EEXIST; EINVAL: the image lacks the feature exclusive-lock; EROFS: a client has
	// mapped it with the option exclusive.
	//
	// rbd_lock_acquire of librbd is of no use for this: its caller answers the kernel's client that
	// it keeps the lock, and the kernel then fails the write (EIO; Linux, drivers/block/rbd.c, "peer
	// will not release lock"). A filesystem does not survive that.
	CreateQuiescedSnapshot(name string, quiesced func() error) error
	// SilentClients asks all clients that have the image open for writing for an answer, and returns
	// those that give none within the timeout, such as client.4133: nodes that are cut off. Before a
	// snapshot is taken, librbd waits half a minute for each of them. Clients that answer read the
	// header of the image again, and nothing else.
	SilentClients(timeout time.Duration) ([]string, error)
}
