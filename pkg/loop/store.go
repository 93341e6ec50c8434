package loop

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/loop/internal/volumedir"
	"github.com/growvol/growvol/pkg/volume"
)

// store writes the directory of the volumes: it creates and removes objects so that a crash
// at any step leaves complete objects only. The embedded Dir reads and locks objects.
type store struct {
	volumedir.Dir
	ops fileOps
}

// errExists says that the object to be created exists.
var errExists = errors.New("the object exists")

// tempSuffix marks a file that is being written and then renamed.
const tempSuffix = ".new"

// dirs returns the directories that must exist.
func (s *store) dirs() []string {
	return []string{
		s.CollectionPath(volumedir.Volumes), s.CollectionPath(volumedir.Snapshots),
		s.PendingPath(""),
	}
}

// createDirs creates the missing directories, readable by their owner only, because they hold
// the content of the volumes. It leaves the mode of an existing directory unchanged.
func (s *store) createDirs() error {
	for _, dir := range s.dirs() {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	return nil
}

// ids returns the ids of all objects of a collection, in order.
func (s *store) ids(c volumedir.Collection) ([]string, error) {
	entries, err := os.ReadDir(s.CollectionPath(c))
	if err != nil {
		return nil, volume.Errorf(volume.KindInternal, "cannot list the %s: %w", c, err)
	}
	ids := make([]string, 0, len(entries))
	for _, e := range entries {
		if c.IsID(e.Name()) {
			ids = append(ids, e.Name())
		}
	}
	return ids, nil
}

// create writes an object into its directory in pending, which the caller has locked, and then
// renames that directory to the object's path. write writes the content into the open data
// file. If anything fails, create removes the directory in pending. It returns errExists if
// the object exists.
func (s *store) create(o volumedir.Object, write func(data *os.File) error) (err error) {
	pending, path := s.PendingPath(o.ID), s.Path(o.Collection, o.ID)
	defer func() {
		if err != nil {
			err = volume.Join(err, s.ops.removeAll(pending)) // an unfinished copy may be large
		}
	}()
	if _, err := os.Lstat(path); err == nil {
		return errExists
	}
	if err := s.createFile(filepath.Join(pending, volumedir.DataFile), write); err != nil {
		return err
	}
	if err := s.saveJSON(filepath.Join(pending, volumedir.RecordFile), o.Record); err != nil {
		return err
	}
	if err := s.ops.rename(pending, path); err != nil {
		return err
	}
	return s.syncDirs(o.Collection)
}

// createFile creates a file and makes its content survive a power failure.
func (s *store) createFile(path string, write func(*os.File) error) error {
	f, err := s.ops.create(path)
	if err != nil {
		return err
	}
	err = write(f)
	if err == nil {
		err = s.ops.sync(f)
	}
	return volume.Join(err, f.Close())
}

// saveJSON writes value as JSON to the file at path. Readers see the previous file or the
// complete new one.
func (s *store) saveJSON(path string, value any) error {
	text, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	err = s.createFile(path+tempSuffix, func(f *os.File) error { return s.ops.write(f, append(text, '\n')) })
	if err == nil {
		err = s.ops.rename(path+tempSuffix, path)
	}
	if err == nil {
		return s.ops.syncDir(filepath.Dir(path))
	}
	return volume.Join(err, s.ops.removeFile(path+tempSuffix))
}

func (s *store) attachmentPath(id string) string {
	return filepath.Join(s.Path(volumedir.Volumes, id), volumedir.AttachmentFile)
}

// removeAttachment removes a volume's attachment, and the temporary file of an
// interrupted one.
func (s *store) removeAttachment(id string) error {
	path := s.attachmentPath(id)
	for _, p := range []string{path + tempSuffix, path} {
		if err := s.ops.removeFile(p); err != nil {
			return err
		}
	}
	return s.ops.syncDir(filepath.Dir(path))
}

// remove removes an object that the caller has locked.
func (s *store) remove(ctx context.Context, c volumedir.Collection, id string) error {
	if err := s.moveToPending(ctx, c, id); err != nil {
		return err
	}
	// The directory in pending is now the object's own, under the caller's lock; a
	// creation of the same name waits for it.
	if err := s.syncDirs(c); err != nil {
		return err
	}
	return s.ops.removeAll(s.PendingPath(id))
}

// moveToPending moves an object to its directory in pending. If that directory exists,
// a creation of the same name owns it: moveToPending waits until the creation has found
// that the object exists, or removes what an interrupted creation left.
func (s *store) moveToPending(ctx context.Context, c volumedir.Collection, id string) error {
	for {
		err := s.ops.renameNoReplace(s.Path(c, id), s.PendingPath(id))
		if errors.Is(err, unix.EINVAL) {
			return s.replacePending(ctx, c, id)
		}
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
		if err := s.discardPending(ctx, id); err != nil {
			return err
		}
	}
}

// replacePending is moveToPending for filesystems without RENAME_NOREPLACE (NFS). It
// creates the directory in pending first, which needs free space.
func (s *store) replacePending(ctx context.Context, c volumedir.Collection, id string) error {
	pending := s.PendingPath(id)
	unlock, err := s.lockPending(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	if err := s.ops.removeFiles(pending); err != nil {
		return err
	}
	return s.ops.rename(s.Path(c, id), pending)
}

// lockPending creates the object's directory in pending if it does not exist, and locks it.
func (s *store) lockPending(ctx context.Context, id string) (unlock func(), err error) {
	pending := s.PendingPath(id)
	for {
		if err := s.ops.mkdir(pending); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		unlock, err := volumedir.LockPath(ctx, pending)
		if !errors.Is(err, fs.ErrNotExist) {
			return unlock, err
		}
		// The previous holder has moved or removed the directory.
	}
}

// discardPending removes the object's directory in pending, which an interrupted call
// left. It waits for a call that still uses the directory.
func (s *store) discardPending(ctx context.Context, id string) error {
	pending := s.PendingPath(id)
	unlock, err := volumedir.LockPath(ctx, pending)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unlock()
	return s.ops.removeAll(pending)
}

// discardAllPending removes every directory in pending that no other process uses, and
// returns the errors of those that it could not remove.
func (s *store) discardAllPending() []error {
	entries, err := os.ReadDir(s.PendingPath(""))
	if err != nil {
		return []error{err}
	}
	var failed []error
	for _, e := range entries {
		pending := s.PendingPath(e.Name())
		unlock, ok, err := volumedir.TryLockPath(pending)
		if ok {
			err = s.ops.removeAll(pending)
			unlock()
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = append(failed, err)
		}
	}
	return failed
}

// syncDirs makes a rename between pending and a collection survive a power failure.
func (s *store) syncDirs(c volumedir.Collection) error {
	return volume.Join(s.ops.syncDir(s.CollectionPath(c)), s.ops.syncDir(s.PendingPath("")))
}
