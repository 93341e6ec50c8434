package loop

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
)

// class is a kind of object and the name of its directory.
type class string

const (
	volumes   class = "volumes"
	snapshots class = "snapshots"

	pendingDir = "pending"
	dataFile   = "data"
	metaFile   = "meta.json"
	attachFile = "attachment.json" // of its own, so that detaching only removes: a full filesystem has no room for more
	newSuffix  = ".new"            // of a file that is being written

	idBytes = 16 // of the name's SHA-256: no two names in the world share them
)

func (c class) prefix() string {
	if c == snapshots {
		return "snap-"
	}
	return "vol-"
}

// word names the class in messages.
func (c class) word() string {
	if c == snapshots {
		return "snapshot"
	}
	return "volume"
}

// id derives an object's id from its name.
func (c class) id(name string) string {
	sum := sha256.Sum256([]byte(name))
	return c.prefix() + hex.EncodeToString(sum[:idBytes])
}

// valid tells whether id has the form of an id of this class. Nothing else is
// ever made part of a path.
func (c class) valid(id string) bool {
	if len(id) != len(c.prefix())+2*idBytes || id[:len(c.prefix())] != c.prefix() {
		return false
	}
	for _, r := range id[len(c.prefix()):] {
		if (r < '0' || r > '9') && (r < 'a' || r > 'f') {
			return false
		}
	}
	return true
}

// record is the content of meta.json. The size is not in it: the data file's
// length is the one truth about that.
type record struct {
	Name     string            `json:"name"`
	Created  time.Time         `json:"created"`
	Source   volume.Source     `json:"source"`             // of a volume
	VolumeID string            `json:"volumeID,omitempty"` // of a snapshot
	Context  map[string]string `json:"context,omitempty"`  // of a volume, for the node
	// Encrypted: the node encrypts the volume (volume.Volume).
	Encrypted bool `json:"encrypted,omitempty"`
}

// attachment is the content of attachment.json: where and how a volume is attached.
type attachment struct {
	Node     string            `json:"node"`
	Mode     volume.AccessMode `json:"mode"`
	ReadOnly bool              `json:"readOnly"`
}

// object is a volume or snapshot as it was read.
type object struct {
	record
	class      class
	id         string
	size       volume.Size
	attachment *attachment // nil: not attached
}

// store is the directory.
type store struct {
	dir  string
	disk disk
}

func (s *store) path(c class, id string) string { return filepath.Join(s.dir, string(c), id) }
func (s *store) pending(id string) string       { return filepath.Join(s.dir, pendingDir, id) }
func (s *store) data(c class, id string) string { return filepath.Join(s.path(c, id), dataFile) }

func (s *store) init() error {
	const mode = 0o700 // the volumes' content is nobody else's business
	for _, name := range []string{string(volumes), string(snapshots), pendingDir} {
		if err := os.MkdirAll(filepath.Join(s.dir, name), mode); err != nil {
			return err
		}
	}
	return nil
}

// load reads an object. Kind NotFound: it does not exist; other failures,
// such as a directory that is not mounted, never read as that.
func (s *store) load(c class, id string) (object, error) {
	if !c.valid(id) {
		return object{}, notFound(c, id)
	}
	// One handle for both files: objects come and go under their path.
	dir, err := os.OpenRoot(s.path(c, id))
	if errors.Is(err, fs.ErrNotExist) {
		return object{}, s.absent(c, id)
	}
	if err != nil {
		return object{}, volume.Errorf(volume.KindInternal, "open the %s: %w", c.word(), err)
	}
	defer dir.Close() //nolint:errcheck // only read from
	o, err := read(dir)
	if err != nil {
		return object{}, s.unreadable(c, id, dir, err)
	}
	o.class, o.id = c, id
	return o, nil
}

// read reads an object from its directory.
func read(dir *os.Root) (object, error) {
	var o object
	if err := readJSON(dir, metaFile, &o.record); err != nil {
		return o, err
	}
	a := new(attachment)
	switch err := readJSON(dir, attachFile, a); {
	case err == nil:
		o.attachment = a
	case !errors.Is(err, fs.ErrNotExist):
		return o, err
	}
	st, err := dir.Stat(dataFile)
	if err != nil {
		return o, err
	}
	o.size = volume.Size(st.Size())
	return o, nil
}

func readJSON(dir *os.Root, name string, into any) error {
	text, err := dir.ReadFile(name)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// absent is the error for an object whose directory does not exist.
func (s *store) absent(c class, id string) error {
	if _, err := os.Stat(filepath.Join(s.dir, string(c))); err != nil {
		return volume.Errorf(volume.KindInternal, "the directory for volumes is not there: %w", err).
			WithRemedy("check that the node's directory is mounted into the container")
	}
	return notFound(c, id)
}

// unreadable is the error for an object whose files could not be read: it was
// removed during the reading, or it is damaged.
func (s *store) unreadable(c class, id string, dir *os.Root, cause error) error {
	if errors.Is(cause, fs.ErrNotExist) {
		was, err := dir.Stat(".")
		is, err2 := os.Stat(s.path(c, id))
		if err == nil && (errors.Is(err2, fs.ErrNotExist) || err2 == nil && !os.SameFile(was, is)) {
			return notFound(c, id)
		}
	}
	// What makes no sense, or is missing, stays so; an error in reading may pass.
	var reading *fs.PathError
	if !errors.As(cause, &reading) || errors.Is(cause, fs.ErrNotExist) {
		cause = damageError{cause}
	}
	return volume.Errorf(volume.KindInternal, "the %s %s is damaged: %w", c.word(), id, cause).
		WithRemedy("look into " + s.path(c, id))
}

func notFound(c class, id string) error {
	return volume.Errorf(volume.KindNotFound, "there is no %s %q", c.word(), id)
}

// missing tells whether the object does not exist.
func missing(err error) bool { return err != nil && volume.KindOf(err) == volume.KindNotFound }

// lock takes the object for the caller and reads it. The context bounds the
// wait.
func (s *store) lock(ctx context.Context, c class, id string) (object, func(), error) {
	if !c.valid(id) {
		return object{}, nil, notFound(c, id)
	}
	unlock, err := lockDir(ctx, s.path(c, id))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = s.absent(c, id)
		}
		return object{}, nil, err
	}
	o, err := s.load(c, id)
	if err != nil {
		unlock()
		return object{}, nil, err
	}
	return o, unlock, nil
}

// errExists says that the object to be built is there already.
var errExists = errors.New("exists already")

// build makes an object in its place in pending, which the caller has claimed:
// fill writes the content into the open data file, and the object appears
// complete or not at all. errExists: another call was first.
func (s *store) build(c class, id string, r record, fill func(data *os.File) error) (err error) {
	dir := s.pending(id)
	defer func() {
		if err != nil {
			// Half a copy may be large; it is of no use to anybody.
			err = errors.Join(err, s.disk.removeAll(dir))
		}
	}()
	if _, err := os.Lstat(s.path(c, id)); err == nil {
		return errExists
	}
	if err := s.fill(dir, r, fill); err != nil {
		return err
	}
	if err := s.disk.rename(dir, s.path(c, id)); err != nil {
		return err
	}
	return s.syncDirs(c)
}

// claim makes a directory in pending if there is none, and locks it.
func (s *store) claim(ctx context.Context, dir string) (unlock func(), err error) {
	for {
		if err := s.disk.mkdir(dir); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		unlock, err := lockDir(ctx, dir)
		if !errors.Is(err, fs.ErrNotExist) {
			return unlock, err
		}
		// Whoever held it has just completed or removed it.
	}
}

func (s *store) fill(dir string, r record, fill func(data *os.File) error) error {
	f, err := s.disk.create(filepath.Join(dir, dataFile))
	if err != nil {
		return err
	}
	err = fill(f)
	if err == nil {
		err = s.disk.sync(f)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return s.save(filepath.Join(dir, metaFile), r)
}

// save writes a file as JSON: readers see none or the old one, or all of the
// new one.
func (s *store) save(path string, value any) (err error) {
	text, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	f, err := s.disk.create(path + newSuffix)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.disk.removeFile(path+newSuffix))
		}
	}()
	err = s.disk.write(f, append(text, '\n'))
	if err == nil {
		err = s.disk.sync(f)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := s.disk.rename(path+newSuffix, path); err != nil {
		return err
	}
	return s.disk.syncDir(filepath.Dir(path))
}

// detach removes a volume's attachment, and what an interrupted save may have
// left of one. It needs no space.
func (s *store) detach(id string) error {
	path := filepath.Join(s.path(volumes, id), attachFile)
	for _, p := range []string{path + newSuffix, path} {
		if err := s.disk.removeFile(p); err != nil {
			return err
		}
	}
	return s.disk.syncDir(filepath.Dir(path))
}

// remove makes an object that the caller has locked disappear. It needs no
// space, so that a full filesystem can be emptied.
func (s *store) remove(ctx context.Context, c class, id string) error {
	dir := s.pending(id)
	if err := s.retire(ctx, c, id); err != nil {
		return err
	}
	// From here on dir is the object's own directory, under the caller's lock,
	// for which a creation of the same name waits.
	if err := s.syncDirs(c); err != nil {
		return err
	}
	return s.disk.removeAll(dir)
}

// retire moves an object to its place in pending. If a creation of the same
// name is there already, it is awaited: it finds that the object exists and
// leaves, or it was interrupted.
func (s *store) retire(ctx context.Context, c class, id string) error {
	dir := s.pending(id)
	for {
		err := s.disk.renameNew(s.path(c, id), dir)
		if errors.Is(err, unix.EINVAL) {
			return s.retireOver(ctx, c, id)
		}
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
		if err := s.discard(ctx, id); err != nil {
			return err
		}
	}
}

// retireOver is retire for filesystems that know no RENAME_NOREPLACE (NFS): it
// takes the place first, which needs space.
func (s *store) retireOver(ctx context.Context, c class, id string) error {
	dir := s.pending(id)
	unlock, err := s.claim(ctx, dir)
	if err != nil {
		return err
	}
	defer unlock()
	if err := s.disk.empty(dir); err != nil {
		return err
	}
	return s.disk.rename(s.path(c, id), dir)
}

// discard removes what an interrupted call has left of an object that does
// not exist. It waits for a call that is still at work on it.
func (s *store) discard(ctx context.Context, id string) error {
	dir := s.pending(id)
	unlock, err := lockDir(ctx, dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unlock()
	return s.disk.removeAll(dir)
}

// sweep discards everything left by interrupted calls, except what another
// process is at work on, and returns what could not be removed.
func (s *store) sweep() []error {
	entries, err := os.ReadDir(filepath.Join(s.dir, pendingDir))
	if err != nil {
		return []error{err}
	}
	var failed []error
	for _, e := range entries {
		dir := s.pending(e.Name())
		unlock, ok, err := tryLockDir(dir)
		if ok {
			err = s.disk.removeAll(dir)
			unlock()
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = append(failed, err)
		}
	}
	return failed
}

// syncDirs makes a rename between pending and a class survive a power loss.
func (s *store) syncDirs(c class) error {
	return errors.Join(s.disk.syncDir(filepath.Join(s.dir, string(c))), s.disk.syncDir(filepath.Join(s.dir, pendingDir)))
}
