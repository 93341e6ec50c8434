package blockdev

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// NewUncachedReader returns a reader of an open block device whose reads come from the
// device, and leave nothing in the page cache of the block device.
//
// That cache is coherent with nobody: XFS and btrfs write past it, and so does
// another node that has the same disk. The kernel drops it at the last close of
// the device only, so what was read before a mount would be read again, by
// whatever program, for as long as the filesystem is mounted. Pages that are
// dirty, or in use by a mounted ext, are coherent and stay.
func NewUncachedReader(f *os.File) io.ReaderAt { return uncachedReader{f} }

type uncachedReader struct{ file *os.File }

// ReadAt implements io.ReaderAt.
func (u uncachedReader) ReadAt(p []byte, at int64) (int, error) {
	u.dropCache(at, len(p))
	defer u.dropCache(at, len(p))
	return u.file.ReadAt(p, at)
}

// dropCache is POSIX_FADV_DONTNEED on whole pages. A file that does not know it has
// no page cache either.
func (u uncachedReader) dropCache(at int64, length int) {
	const page = 64 << 10 // the largest of any machine
	start := at &^ (page - 1)
	end := (at + int64(length) + page - 1) &^ (page - 1)
	_ = unix.Fadvise(int(u.file.Fd()), start, end-start, unix.FADV_DONTNEED)
}
