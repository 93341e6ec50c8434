package filesystem

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/growvol/growvol/pkg/volume"
)

// marker proves that a mkfs of ours was begun on a volume that was blank. It
// lies on the node, outside of the volume, from before mkfs starts until the
// finished filesystem was read back.
type marker struct {
	Type   Type        `json:"type"`
	Device volume.Size `json:"deviceBytes"`
}

// readMarker returns the marker at path; exists is false when there is none.
func readMarker(path string) (m marker, exists bool, err error) {
	if path == "" {
		return marker{}, false, nil
	}
	data, exists, err := readFile(path)
	if err != nil || !exists {
		return marker{}, false, err
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return marker{}, false, fmt.Errorf("marker %s: %w", path, err)
	}
	return m, true, nil
}

// writeMarker puts the marker in place so that it survives a power cut before
// the first byte of mkfs is written.
func writeMarker(path string, m marker) error {
	if path == "" {
		return nil
	}
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	tmp := path + ".new"
	if err := writeSynced(tmp, data); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func removeMarker(path string) error {
	if path == "" {
		return nil
	}
	err := os.Remove(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
