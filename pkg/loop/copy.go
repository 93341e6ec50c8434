package loop

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/loop/internal/losetup"
	"github.com/growvol/growvol/pkg/loop/internal/volumedir"
	"github.com/growvol/growvol/pkg/volume"
)

// copyFile makes dst a copy of src, which holds the content of from. Where the filesystem
// can share blocks (FICLONE: XFS, btrfs), the copy is atomic, even while a pod writes to
// the volume. Elsewhere copyFile copies the data piece by piece; it refuses to do so for a
// connected volume (kind Precondition), because the copy would mix old and new blocks.
//
// The copy holds what has reached the file. It lacks data that a mounted filesystem still
// has in memory: the copy is crash-consistent, as after a power failure.
func (b *Backend) copyFile(ctx context.Context, from source, src, dst *os.File) error {
	err := b.shareBlocks(dst, src)
	if err == nil {
		return nil
	}
	if !isUnsupported(err) {
		return fmt.Errorf("cannot share the blocks of %s %s: %w", from.collection.Noun(), from.id, err)
	}
	if from.collection == volumedir.Volumes {
		devices, err := b.loops.Find(src.Name())
		if err != nil {
			return err
		}
		if len(devices) > 0 {
			return volume.Errorf(volume.KindPrecondition, "cannot copy the volume %s while it is in use (%s): "+
				"the filesystem of the node that holds it has no reflinks", from.id, losetup.Paths(devices)).
				WithRemedy("stop the pods that use the volume, or keep the volumes on XFS (reflink=1) or btrfs")
		}
	}
	return sparseCopy(ctx, src, dst)
}

// copyChunkSize is the number of bytes between two checks of the context. It bounds how long a
// copy continues after its context has ended.
const copyChunkSize = 64 << 20

func ficlone(dst, src *os.File) error { return unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) }

// isUnsupported reports whether FICLONE failed because the kernel or the filesystem cannot
// share blocks between these files (ioctl_ficlone(2)).
func isUnsupported(err error) bool {
	errnos := []error{errors.ErrUnsupported, unix.ENOTTY, unix.EXDEV, unix.EINVAL}
	return slices.ContainsFunc(errnos, func(errno error) bool { return errors.Is(err, errno) })
}

// sparseCopy copies the data of src, but not its holes, into dst, which is empty.
func sparseCopy(ctx context.Context, src, dst *os.File) error {
	st, err := src.Stat()
	if err != nil {
		return err
	}
	if err := dst.Truncate(st.Size()); err != nil {
		return err
	}
	for end := int64(0); end < st.Size(); {
		start, err := src.Seek(end, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // a hole up to the end
		}
		if err == nil {
			end, err = src.Seek(start, unix.SEEK_HOLE)
		}
		if err == nil {
			err = copyRange(ctx, src, dst, start, end)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// copyRange copies the bytes [start, end) of src to the same place in dst. os.File copies
// them in the kernel (copy_file_range(2)) where the filesystem supports that.
func copyRange(ctx context.Context, src, dst *os.File, start, end int64) error {
	for _, f := range []*os.File{src, dst} {
		if _, err := f.Seek(start, io.SeekStart); err != nil {
			return err
		}
	}
	for ; start < end; start += copyChunkSize {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := io.CopyN(dst, src, min(end-start, copyChunkSize)); err != nil {
			return err
		}
	}
	return nil
}
