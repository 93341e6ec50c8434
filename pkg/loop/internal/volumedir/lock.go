package volumedir

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// Lock locks an object and then reads it. It waits for the lock until ctx ends. Errors
// are those of LockPath and Load.
func (d Dir) Lock(ctx context.Context, c Collection, id string) (Object, func(), error) {
	if !c.IsID(id) {
		return Object{}, nil, notFoundError(c, id)
	}
	unlock, err := LockPath(ctx, d.Path(c, id))
	if errors.Is(err, fs.ErrNotExist) {
		err = d.missingError(c, id)
	}
	if err != nil {
		return Object{}, nil, err
	}
	o, err := d.Load(c, id)
	if err != nil {
		unlock()
		return Object{}, nil, err
	}
	return o, unlock, nil
}

// LockPath takes the exclusive lock of the directory that has this path when the lock is
// granted. The kernel releases the lock when the process ends. Errors: fs.ErrNotExist
// (there is no such directory), kind InProgress (ctx ended first).
func LockPath(ctx context.Context, path string) (unlock func(), err error) {
	for interval := minLockPoll; ; interval = min(2*interval, maxLockPoll) {
		unlock, ok, err := TryLockPath(path)
		if ok || err != nil {
			return unlock, err
		}
		if operation.Sleep(ctx, interval) != nil {
			return nil, volume.Errorf(volume.KindInProgress, "another operation on %s, such as a copy, has not finished: %w",
				filepath.Base(path), context.Cause(ctx)).
				WithRemedy("no action needed: the operation continues and the next retry picks it up")
		}
	}
}

// Polling intervals of LockPath: flock(2) cannot wait under a context.
const (
	minLockPoll = 5 * time.Millisecond
	maxLockPoll = 100 * time.Millisecond
)

// TryLockPath is LockPath without the wait: ok reports whether the lock was free.
func TryLockPath(path string) (unlock func(), ok bool, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, false, err
	}
	if ok, err = lockFile(f, path); !ok {
		_ = f.Close() // nothing was written
		return nil, false, err
	}
	return func() { _ = f.Close() }, true, nil
}

// lockFile locks an open directory. It reports false if another process holds the lock,
// or has renamed or removed the directory since it was opened.
func lockFile(f *os.File, path string) (ok bool, err error) {
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	switch {
	case errors.Is(err, unix.EWOULDBLOCK), errors.Is(err, unix.EINTR):
		return false, nil
	case err != nil:
		return false, &os.PathError{Op: "flock", Path: path, Err: err}
	}
	opened, openedErr := f.Stat()
	current, currentErr := os.Stat(path)
	return openedErr == nil && currentErr == nil && os.SameFile(opened, current), nil
}
