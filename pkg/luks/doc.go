// Package luks makes LUKS2 headers and the dm-crypt mappings on them: format,
// open, grow, close. Headers and mappings are read here, in Go, and device
// mapper is asked by ioctl; what needs a key is done by cryptsetup(8). The
// exit status of cryptsetup is a hint for the message, never a result: each
// success was read back from the header, the mapping's table and sysfs.
//
// Mappings are opened with the volume key in the mapping's table and not in
// the kernel's keyring (--disable-keyring). So a mapping can grow without the
// passphrase, which Kubernetes hands over at stage and, for growth, only where
// the StorageClass names a second secret; and a device that grows by itself is
// followed at once. The cost: root on this node can read the volume key with
// "dmsetup table --showkeys" for as long as the mapping is open. Root on this
// node can read the decrypted volume anyway, but a copy of the volume key is
// good for the volume's whole life, also after a change of the passphrase.
//
// Discards do not pass through the mappings (no --allow-discards): they would
// show, on the storage, which parts of the volume are in use. The cost: space
// that the filesystem frees is not given back to a thin storage.
//
// Programs of this package hold a lock (flock) on the disk that they inherit.
// So a cryptsetup that survives a killed node plugin is waited for, and two
// never work on one disk. Close waits for one on the disk of an open mapping,
// CloseOn for one on the volume's disk too.
package luks
