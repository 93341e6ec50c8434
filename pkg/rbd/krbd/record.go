package krbd

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/growvol/growvol/pkg/statefile"
	"github.com/growvol/growvol/pkg/volume"
)

// record is what this node knows about the mapping of a volume: a file from before the mapping
// until after the unmapping. The JSON names must not change: files with them are on the disks of
// nodes.
type record struct {
	ID       string    `json:"volume"`
	Image    string    `json:"image"`              // pool/namespace/image@snapshot, at the time of the mapping
	Mapped   *identity `json:"mapped,omitempty"`   // as the kernel showed it; nil: the mapping had not ended
	Recorded bool      `json:"recorded,omitempty"` // Recorder has the mapping
	// Size is that which the controller published.
	Size volume.Size `json:"sizeBytes,omitempty"`
}

// records is the directory of the records.
type records struct{ dir string }

const recordSuffix = ".json"

// hashOf returns the name under which files and keys carry the volume id.
func hashOf(id string) string {
	sum := sha256.Sum256([]byte(id))
	return hex.EncodeToString(sum[:16])
}

// keyName returns the name of the key with which the volume id is mapped. The kernel shows the name
// with the mapping, so that it also marks the mapping as that of the volume.
func keyName(id string) string { return "growvol-" + hashOf(id) }

func (r records) path(id string) string { return filepath.Join(r.dir, hashOf(id)+recordSuffix) }

// read returns the record of the volume; exists is false if there is none. A damaged record counts
// as one without an identity.
func (r records) read(id string) (rec record, exists bool, err error) {
	exists, err = statefile.Read(r.path(id), &rec)
	if errors.Is(err, statefile.ErrDamaged) {
		return record{ID: id}, true, nil
	}
	return rec, exists, recordError(err)
}

func (r records) write(rec record) error {
	err := os.MkdirAll(r.dir, 0o700)
	if err == nil {
		err = statefile.Write(r.path(rec.ID), rec)
	}
	return recordError(err)
}

func (r records) remove(id string) error { return recordError(statefile.Remove(r.path(id))) }

// others returns the ids of the other volumes whose record has the identity.
func (r records) others(id string, mapped identity) ([]string, error) {
	entries, err := os.ReadDir(r.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, recordError(err)
	}
	var ids []string
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), recordSuffix) {
			continue
		}
		var rec record
		_, err := statefile.Read(filepath.Join(r.dir, e.Name()), &rec)
		if err != nil && !errors.Is(err, statefile.ErrDamaged) {
			return nil, recordError(err)
		}
		if rec.ID != id && rec.Mapped != nil && *rec.Mapped == mapped {
			ids = append(ids, rec.ID)
		}
	}
	return ids, nil
}

func recordError(err error) error {
	if err == nil {
		return nil
	}
	return volume.Errorf(volume.KindInternal, "cannot access the record of a mapped image: %w", err).
		WithRemedy("check the state directory of the node plugin on this node (--state-dir; Helm value node.stateDir): " +
			"it must be writable and have space")
}
