// Package luks makes LUKS2 headers and the dm-crypt mappings on them: Format, Open, Find,
// Grow, Close. The node service calls it between the disk (package blockdev) and the
// filesystem (package filesystem) of an encrypted volume. It reads headers and mappings
// itself, asks the kernel's device mapper by ioctl, and runs cryptsetup(8) only for what
// needs a key. The exit status of cryptsetup only chooses the message of an error: every
// success is read back from the header, the mapping's table and sysfs.
//
// Open keeps the volume key in the mapping's table and not in the kernel's keyring
// (--disable-keyring). So a mapping can grow without the passphrase, which Kubernetes passes
// at stage and, for growth, only if the StorageClass names a second secret. The cost: while
// the mapping is open, root on this node can read the volume key with "dmsetup table
// --showkeys". Root can read the decrypted volume anyway, but a copy of the key stays valid
// for the volume's whole life, also after a change of the passphrase.
//
// The mappings do not pass discards on (no --allow-discards): discards would show the
// storage which blocks are in use. The cost: a thin storage does not get freed space back.
//
// Every cryptsetup that this package starts inherits a lock (flock) on the disk. If the node
// plugin is killed, the next operation on the disk waits for the cryptsetup that is still
// running, so two never work on one disk. Close waits for one on the disk of an open mapping,
// CloseOn also for one on the volume's disk.
package luks
