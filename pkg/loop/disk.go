package loop

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
)

// disk makes every change to the directory, one method per step, so that tests can fail
// each step (a crash, a full disk).
type disk struct {
	beforeStep func(step, path string) error // nil outside of tests
}

// do makes one step.
func (d disk) do(step, path string, change func() error) error {
	if d.beforeStep != nil {
		if err := d.beforeStep(step, path); err != nil {
			return err
		}
	}
	return change()
}

func (d disk) mkdir(path string) error {
	return d.do("mkdir", path, func() error { return os.Mkdir(path, 0o700) })
}

func (d disk) create(path string) (f *os.File, err error) {
	err = d.do("create", path, func() (err error) {
		f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
		return err
	})
	return f, err
}

func (d disk) write(f *os.File, data []byte) error {
	return d.do("write", f.Name(), func() error {
		_, err := f.Write(data)
		return err
	})
}

func (d disk) truncate(f *os.File, size volume.Size) error {
	return d.do("truncate", f.Name(), func() error { return f.Truncate(size.Bytes()) })
}

func (d disk) sync(f *os.File) error { return d.do("sync", f.Name(), f.Sync) }

func (d disk) syncDir(path string) error {
	return d.do("syncdir", path, func() error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		return volume.Join(f.Sync(), f.Close())
	})
}

// rename replaces an existing file or empty directory; os.Rename refuses the latter.
func (d disk) rename(from, to string) error { return d.renameFlags("rename", from, to, 0) }

// renameNew returns fs.ErrExist if there is anything at the new path, also an empty
// directory, which may belong to another call.
func (d disk) renameNew(from, to string) error {
	return d.renameFlags("rename new", from, to, unix.RENAME_NOREPLACE)
}

func (d disk) renameFlags(step, from, to string, flags uint) error {
	return d.do(step, to, func() error {
		if err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, flags); err != nil {
			return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
		}
		return nil
	})
}

func (d disk) remove(path string) error {
	return d.do("remove", path, func() error { return os.Remove(path) })
}

// removeFile removes a file, if it exists.
func (d disk) removeFile(path string) error {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return d.remove(path)
}

// removeFiles removes the files of a directory; objects have no subdirectories.
func (d disk) removeFiles(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := d.remove(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// removeAll removes a directory and its files, if it exists.
func (d disk) removeAll(dir string) error {
	err := d.removeFiles(dir)
	if err == nil {
		err = d.remove(dir)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
