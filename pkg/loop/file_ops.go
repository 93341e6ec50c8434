package loop

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
)

// fileOps makes every change to the directory, one method per step, so that tests can make
// each step fail, as in a crash or on a full disk.
type fileOps struct {
	beforeStep func(step, path string) error // set by tests only
}

// do makes one step.
func (ops fileOps) do(step, path string, change func() error) error {
	if ops.beforeStep != nil {
		if err := ops.beforeStep(step, path); err != nil {
			return err
		}
	}
	return change()
}

func (ops fileOps) mkdir(path string) error {
	return ops.do("mkdir", path, func() error { return os.Mkdir(path, 0o700) })
}

func (ops fileOps) create(path string) (f *os.File, err error) {
	err = ops.do("create", path, func() (err error) {
		f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
		return err
	})
	return f, err
}

func (ops fileOps) write(f *os.File, data []byte) error {
	return ops.do("write", f.Name(), func() error {
		_, err := f.Write(data)
		return err
	})
}

func (ops fileOps) truncate(f *os.File, size volume.Size) error {
	return ops.do("truncate", f.Name(), func() error { return f.Truncate(size.Bytes()) })
}

func (ops fileOps) sync(f *os.File) error { return ops.do("sync", f.Name(), f.Sync) }

func (ops fileOps) syncDir(path string) error {
	return ops.do("syncdir", path, func() error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		return volume.Join(f.Sync(), f.Close())
	})
}

// rename replaces an existing file or empty directory; os.Rename would refuse the directory.
func (ops fileOps) rename(from, to string) error { return ops.renameFlags("rename", from, to, 0) }

// renameNoReplace returns fs.ErrExist if there is anything at the new path, even an
// empty directory, which might belong to another call.
func (ops fileOps) renameNoReplace(from, to string) error {
	return ops.renameFlags("rename no-replace", from, to, unix.RENAME_NOREPLACE)
}

func (ops fileOps) renameFlags(step, from, to string, flags uint) error {
	return ops.do(step, to, func() error {
		if err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, flags); err != nil {
			return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
		}
		return nil
	})
}

func (ops fileOps) remove(path string) error {
	return ops.do("remove", path, func() error { return os.Remove(path) })
}

// removeFile removes a file, if it exists.
func (ops fileOps) removeFile(path string) error {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return ops.remove(path)
}

// removeFiles removes the files of a directory; objects have no subdirectories.
func (ops fileOps) removeFiles(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := ops.remove(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// removeAll removes a directory and its files, if it exists.
func (ops fileOps) removeAll(dir string) error {
	err := ops.removeFiles(dir)
	if err == nil {
		err = ops.remove(dir)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
