package volumedir

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// The lock of a directory that was replaced after it was opened does not count.
func TestLockFileRefusesReplacedDirectory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "d")
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // nothing was written
	if ok, err := lockFile(f, path); !ok || err != nil {
		t.Errorf("the present directory: got %t, %v, want a lock", ok, err)
	}
	if err := errors.Join(os.Rename(path, path+".old"), os.Mkdir(path, 0o700)); err != nil {
		t.Fatal(err)
	}
	if ok, err := lockFile(f, path); ok || err != nil {
		t.Errorf("a replaced directory: got %t, %v, want no lock", ok, err)
	}
}
