package statefile

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

type fact struct{ Name string }

func TestWriteReadRemove(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fact.json")
	var got fact
	if exists, err := Read(path, &got); exists || err != nil {
		t.Errorf("before the first Write: exists %t, error %v", exists, err)
	}
	for _, name := range []string{"first", "second"} {
		if err := Write(path, fact{name}); err != nil {
			t.Fatal(err)
		}
		if exists, err := Read(path, &got); !exists || err != nil || got.Name != name {
			t.Errorf("read %+v, exists %t, error %v, want %q", got, exists, err, name)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, error %v, want 0600", info.Mode(), err)
	}
	for range 2 {
		if err := Remove(path); err != nil {
			t.Error(err)
		}
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 0 {
		t.Errorf("left %v, error %v", entries, err)
	}
}

func TestReadOfADamagedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fact.json")
	if err := os.WriteFile(path, []byte(`{"Name":`), 0o600); err != nil {
		t.Fatal(err)
	}
	if exists, err := Read(path, new(fact)); !exists || !errors.Is(err, ErrDamaged) {
		t.Errorf("exists %t, error %v, want ErrDamaged", exists, err)
	}
}

// A Write that was interrupted before its rename leaves the old content.
func TestUnfinishedWriteIsNotRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fact.json")
	if err := Write(path, fact{"old"}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+newSuffix, []byte(`{"Na`), 0o600); err != nil {
		t.Fatal(err)
	}
	var got fact
	if _, err := Read(path, &got); err != nil || got.Name != "old" {
		t.Errorf("read %+v, error %v", got, err)
	}
	if err := Write(path, fact{"new"}); err != nil {
		t.Fatal(err)
	}
}
