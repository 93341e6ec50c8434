// Package statefile stores values as JSON files that survive a restart of the plugin and a
// power cut. A reader finds the old content or the new content, never a mixture. The node
// service (records of staged volumes) and packages luks and filesystem (markers of
// unfinished formats) use it.
package statefile

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// newSuffix is the suffix of a file that is being written.
const newSuffix = ".new"

// Write replaces the file at path by value as JSON, readable by its owner only, and returns
// when the new content would survive a power cut. The directory must exist.
func Write(path string, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("cannot encode %s: %w", path, err)
	}
	if err := writeSynced(path+newSuffix, data); err != nil {
		return err
	}
	if err := os.Rename(path+newSuffix, path); err != nil {
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
	return cmp.Or(err, f.Close())
}

// ErrDamaged is wrapped by the error of Read for a file whose content cannot be decoded.
var ErrDamaged = errors.New("the file is damaged")

// Read fills value from the file at path. It reports false if there is none. The error
// wraps ErrDamaged when the content cannot be decoded.
func Read(path string, value any) (exists bool, err error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := json.Unmarshal(data, value); err != nil {
		return true, fmt.Errorf("%w: %s: %w", ErrDamaged, path, err)
	}
	return true, nil
}

// Remove removes the file at path, and returns when the removal would survive a power cut. It
// succeeds if the file does not exist.
func Remove(path string) error {
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
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
	return cmp.Or(d.Sync(), d.Close())
}
