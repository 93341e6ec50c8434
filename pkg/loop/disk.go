package loop

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
)

// disk makes every change to the directory, one method per step, so that
// tests can stop the world before each of them.
type disk struct {
	before func(step, path string) error // nil outside of tests
}

func (d disk) step(name, path string) error {
	if d.before == nil {
		return nil
	}
	return d.before(name, path)
}

func (d disk) mkdir(path string) error {
	if err := d.step("mkdir", path); err != nil {
		return err
	}
	return os.Mkdir(path, 0o700)
}

func (d disk) create(path string) (*os.File, error) {
	if err := d.step("create", path); err != nil {
		return nil, err
	}
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
}

func (d disk) write(f *os.File, data []byte) error {
	if err := d.step("write", f.Name()); err != nil {
		return err
	}
	_, err := f.Write(data)
	return err
}

func (d disk) truncate(f *os.File, size volume.Size) error {
	if err := d.step("truncate", f.Name()); err != nil {
		return err
	}
	return f.Truncate(size.Bytes())
}

func (d disk) sync(f *os.File) error {
	if err := d.step("sync", f.Name()); err != nil {
		return err
	}
	return f.Sync()
}

func (d disk) syncDir(path string) error {
	if err := d.step("syncdir", path); err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func (d disk) rename(from, to string) error {
	if err := d.step("rename", to); err != nil {
		return err
	}
	// os.Rename would refuse to replace an empty directory.
	if err := unix.Rename(from, to); err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

// renameNew is rename, but fs.ErrExist if there is something already, an empty
// directory too: it may be another call's.
func (d disk) renameNew(from, to string) error {
	if err := d.step("rename new", to); err != nil {
		return err
	}
	if err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE); err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

func (d disk) remove(path string) error {
	if err := d.step("remove", path); err != nil {
		return err
	}
	return os.Remove(path)
}

// removeFile removes a file; a missing one is fine.
func (d disk) removeFile(path string) error {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return d.remove(path)
}

// empty removes what is in a directory; objects have no subdirectories.
func (d disk) empty(dir string) error {
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

// removeAll removes a directory of files; a missing one is fine.
func (d disk) removeAll(dir string) error {
	err := d.empty(dir)
	if err == nil {
		err = d.remove(dir)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Polling intervals of lockDir: flock(2) cannot wait under a context.
const (
	firstTry   = 5 * time.Millisecond
	slowestTry = 100 * time.Millisecond
)

// lockDir takes the exclusive lock of a directory that exists under this very
// path, waiting as long as the context lasts. The kernel drops it with the
// process. fs.ErrNotExist: there is no such directory (any more).
func lockDir(ctx context.Context, path string) (unlock func(), err error) {
	for pause := firstTry; ; pause = min(2*pause, slowestTry) {
		unlock, ok, err := tryLockDir(path)
		if ok || err != nil {
			return unlock, err
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, volume.Errorf(volume.KindInProgress, "another operation on %s has not finished: %w", filepath.Base(path), context.Cause(ctx)).
				WithRemedy("Kubernetes retries this automatically; a copy of a large volume takes its time")
		}
	}
}

func tryLockDir(path string) (unlock func(), ok bool, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, false, err
	}
	if ok, err = lockOpen(f, path); !ok {
		_ = f.Close() // only locked
		return nil, false, err
	}
	return func() { _ = f.Close() }, true, nil
}

// lockOpen locks an open directory, unless somebody else has it locked or has
// renamed or removed it since it was opened.
func lockOpen(f *os.File, path string) (ok bool, err error) {
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	switch {
	case err == nil:
		return samePath(f, path), nil
	case errors.Is(err, unix.EWOULDBLOCK), errors.Is(err, unix.EINTR):
		return false, nil
	}
	return false, &os.PathError{Op: "flock", Path: path, Err: err}
}

func samePath(f *os.File, path string) bool {
	a, err1 := f.Stat()
	b, err2 := os.Stat(path)
	return err1 == nil && err2 == nil && os.SameFile(a, b)
}
