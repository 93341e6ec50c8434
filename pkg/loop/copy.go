package loop

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
)

// copyStep bounds one copy_file_range call, and so how late a copy sees the
// end of its context.
const copyStep = 64 << 20

// copyFile makes dst share the blocks of src where the filesystem can do that
// (FICLONE: XFS, btrfs), which is atomic even while the volume is written to.
// Elsewhere the data is copied piece by piece; of a volume in use that would
// mix old and new blocks, so it is refused.
//
// Either way the copy has what reached the file. Data that a mounted
// filesystem still has in memory is not in it: the copy is crash-consistent,
// as after a power failure.
func (b *Backend) copyFile(ctx context.Context, from source, src, dst *os.File) error {
	err := b.loops.kernel.Clone(dst, src)
	if err == nil {
		return nil
	}
	if !cannotClone(err) {
		return fmt.Errorf("share the blocks of %s %s: %w", from.class.word(), from.id, err)
	}
	if from.class == volumes {
		devices, err := b.loops.bound(src.Name())
		if err != nil {
			return err
		}
		if len(devices) > 0 {
			return volume.Errorf(volume.KindPrecondition, "the volume %s is in use (%s), and the filesystem under it cannot copy a file that is written to (no reflink)",
				from.id, paths(devices)).
				WithRemedy("stop the pods that use the volume, or keep the volumes on XFS (reflink=1) or btrfs")
		}
	}
	return sparseCopy(ctx, src, dst)
}

// cannotClone tells whether FICLONE failed for want of ability (ioctl_ficlone(2)).
func cannotClone(err error) bool {
	for _, e := range []error{unix.EOPNOTSUPP, unix.ENOTTY, unix.EXDEV, unix.EINVAL, unix.ENOSYS} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// sparseCopy copies the data of src and leaves its holes out. dst is empty.
func sparseCopy(ctx context.Context, src, dst *os.File) error {
	st, err := src.Stat()
	if err != nil {
		return err
	}
	if err := dst.Truncate(st.Size()); err != nil {
		return err
	}
	for at := int64(0); at < st.Size(); {
		data, err := unix.Seek(int(src.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // holes to the end
		}
		if err != nil {
			return os.NewSyscallError("lseek SEEK_DATA", err)
		}
		hole, err := unix.Seek(int(src.Fd()), data, unix.SEEK_HOLE)
		if err != nil {
			return os.NewSyscallError("lseek SEEK_HOLE", err)
		}
		if err := copyRange(ctx, src, dst, data, hole); err != nil {
			return err
		}
		at = hole
	}
	return nil
}

// copyRange copies the bytes [at, end) to the same place.
func copyRange(ctx context.Context, src, dst *os.File, at, end int64) error {
	for at < end {
		if err := ctx.Err(); err != nil {
			return err
		}
		length := min(end-at, copyStep)
		from, to := at, at
		n, err := unix.CopyFileRange(int(src.Fd()), &from, int(dst.Fd()), &to, int(length), 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case cannotClone(err):
			// Not on this filesystem: through user space.
			copied, err := io.Copy(io.NewOffsetWriter(dst, at), io.NewSectionReader(src, at, length))
			if err != nil {
				return err
			}
			n = int(copied)
		case err != nil:
			return os.NewSyscallError("copy_file_range", err)
		}
		if n == 0 {
			return io.ErrUnexpectedEOF
		}
		at += int64(n)
	}
	return nil
}
