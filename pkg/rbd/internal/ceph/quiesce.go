package ceph

// Quiescer is implemented by images that can be snapshotted together with others.
type Quiescer interface {
	// CreateQuiescedSnapshot is CreateSnapshot with a moment in which no other client can write: it
	// takes the exclusive lock, calls quiesced, and takes the snapshot unless quiesced fails. No
	// write of another client ends between the beginning of quiesced and the snapshot. The writes
	// wait, and go on afterwards. It returns the error of quiesced unchanged, and then has taken no
	// snapshot. EEXIST; EINVAL: the image lacks the feature exclusive-lock; EROFS: a client has
	// mapped it with the option exclusive.
	//
	// Image.Lock is of no use for this: its holder answers the kernel's client that it keeps the
	// lock, and the kernel then fails the write (EIO; Linux, drivers/block/rbd.c, "peer will not
	// release lock"). A filesystem does not survive that.
	CreateQuiescedSnapshot(name string, quiesced func() error) error
}
