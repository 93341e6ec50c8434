package statefile

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestIsFresh(t *testing.T) {
	now := time.Now()
	for _, tc := range []struct {
		name  string
		begun time.Time
		want  bool
	}{
		{"now", now, true},
		{"23 hours ago", now.Add(-23 * time.Hour), true},
		{"a day ago", now.Add(-MaxMarkerAge), false},
		{"in an hour, by a clock that was set back", now.Add(time.Hour), true},
		{"in a day", now.Add(MaxMarkerAge), false},
		{"never", time.Time{}, false},
	} {
		if got := IsFresh(tc.begun, now); got != tc.want {
			t.Errorf("%s: IsFresh = %t, want %t", tc.name, got, tc.want)
		}
	}
}

func TestReadMarkerReturnsZeroForADamagedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "marker")
	if got, exists, err := ReadMarker[fact](path); got != (fact{}) || exists || err != nil {
		t.Errorf("missing file: got %+v, exists %t, error %v", got, exists, err)
	}
	if err := Write(path, fact{"begun"}); err != nil {
		t.Fatal(err)
	}
	if got, exists, err := ReadMarker[fact](path); got != (fact{"begun"}) || !exists || err != nil {
		t.Errorf("sound file: got %+v, exists %t, error %v", got, exists, err)
	}
	// The decoder fills the fields before it finds the damage.
	if err := os.WriteFile(path, []byte(`{"Name":"half","Name":1}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, exists, err := ReadMarker[fact](path); got != (fact{}) || !exists || err != nil {
		t.Errorf("damaged file: got %+v, exists %t, error %v; want the zero value", got, exists, err)
	}
}
