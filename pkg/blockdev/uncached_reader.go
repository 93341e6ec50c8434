package blockdev

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// NewUncachedReader returns a reader of an open block device that reads from the device
// itself and leaves nothing in the device's page cache.
//
// That cache can be stale: XFS and btrfs write past it, and so does another node that
// has the same disk. The kernel drops it only at the last close of the device, so a
// program that reads a mounted device could get data from before the mount. Pages that
// are dirty, or that a mounted ext filesystem uses, are up to date; they stay.
func NewUncachedReader(f *os.File) io.ReaderAt { return uncachedReader{f} }

// uncachedReader drops the cached pages of the range before and after each read.
type uncachedReader struct{ file *os.File }

// ReadAt implements io.ReaderAt.
func (u uncachedReader) ReadAt(p []byte, offset int64) (int, error) {
	u.dropCache(offset, len(p))
	defer u.dropCache(offset, len(p))
	return u.file.ReadAt(p, offset)
}

// dropCache drops the clean pages of a range (POSIX_FADV_DONTNEED), rounded out to whole
// pages. It ignores the error of a file that has no page cache.
func (u uncachedReader) dropCache(offset int64, length int) {
	const maxPage = 64 << 10 // the largest page size of any machine
	start := offset &^ (maxPage - 1)
	end := (offset + int64(length) + maxPage - 1) &^ (maxPage - 1)
	_ = unix.Fadvise(int(u.file.Fd()), start, end-start, unix.FADV_DONTNEED)
}
