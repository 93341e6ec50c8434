package volumedir

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/growvol/growvol/pkg/volume"
)

// Object is a volume or snapshot as it was read from its directory.
type Object struct {
	Record
	Collection Collection
	ID         string
	Size       volume.Size
	Attachment *Attachment // nil if the object is not attached
}

// Record is the content of meta.json. It has no size: the length of the data file is
// the size.
type Record struct {
	Name      string            `json:"name"`
	Created   time.Time         `json:"created"`
	Source    volume.Source     `json:"source"`             // of a volume
	VolumeID  string            `json:"volumeID,omitempty"` // of a snapshot
	Context   map[string]string `json:"context,omitempty"`  // of a volume, for the node
	Encrypted bool              `json:"encrypted,omitempty"`
}

// Attachment is the content of attachment.json.
type Attachment struct {
	Node     string            `json:"node"`
	Mode     volume.AccessMode `json:"mode"`
	ReadOnly bool              `json:"readOnly"`
}

// DamageError is the error for an object of which a file is missing or cannot be parsed. A
// retry cannot help.
type DamageError struct{ error }

// Unwrap returns the cause.
func (e DamageError) Unwrap() error { return e.error }

// Load reads an object. The error is of kind NotFound if the object does not exist, and of
// kind Internal if its files cannot be read or the directory of the whole collection is
// missing. It is a DamageError if a retry cannot help.
func (d Dir) Load(c Collection, id string) (Object, error) {
	if !c.IsID(id) {
		return Object{}, notFoundError(c, id)
	}
	// One handle serves both files: another process may replace the object at its path.
	dir, err := os.OpenRoot(d.Path(c, id))
	if errors.Is(err, fs.ErrNotExist) {
		return Object{}, d.missingError(c, id)
	}
	if err != nil {
		return Object{}, volume.Errorf(volume.KindInternal, "cannot open the %s %s: %w", c.Noun(), id, err)
	}
	defer dir.Close() //nolint:errcheck // nothing was written
	o, err := readObject(dir)
	if err != nil {
		return Object{}, d.readError(c, id, dir, err)
	}
	o.Collection, o.ID = c, id
	return o, nil
}

func readObject(dir *os.Root) (Object, error) {
	var o Object
	if err := readJSON(dir, RecordFile, &o.Record); err != nil {
		return o, err
	}
	a := new(Attachment)
	switch err := readJSON(dir, AttachmentFile, a); {
	case err == nil:
		o.Attachment = a
	case !errors.Is(err, fs.ErrNotExist):
		return o, err
	}
	st, err := dir.Stat(DataFile)
	if err != nil {
		return o, err
	}
	o.Size = volume.Size(st.Size())
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

func notFoundError(c Collection, id string) error {
	return volume.Errorf(volume.KindNotFound, "there is no %s %q", c.Noun(), id)
}

// missingError returns the error for an object whose directory does not exist. The
// object is NotFound only if the directory of its collection exists.
func (d Dir) missingError(c Collection, id string) error {
	if _, err := os.Stat(d.CollectionPath(c)); err != nil {
		return volume.Errorf(volume.KindInternal, "cannot find the directory of the volumes: %w", err).
			WithRemedy("check that the node's directory is mounted into the container of the plugin")
	}
	return notFoundError(c, id)
}

// readError returns the error for an object whose files could not be read. The object
// is NotFound if another process removed or replaced it in the meantime.
func (d Dir) readError(c Collection, id string, dir *os.Root, cause error) error {
	if errors.Is(cause, fs.ErrNotExist) {
		opened, err := dir.Stat(".")
		current, currentErr := os.Stat(d.Path(c, id))
		if err == nil && (errors.Is(currentErr, fs.ErrNotExist) || currentErr == nil && !os.SameFile(opened, current)) {
			return notFoundError(c, id)
		}
	}
	// An I/O error can be transient; a missing or malformed file is not.
	if _, isIO := errors.AsType[*fs.PathError](cause); !isIO || errors.Is(cause, fs.ErrNotExist) {
		cause = DamageError{cause}
	}
	return volume.Errorf(volume.KindInternal, "cannot read the %s %s: %w", c.Noun(), id, cause).
		WithRemedy("check the files in " + d.Path(c, id))
}
