package stagerecord

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/growvol/growvol/pkg/statefile"
)

func newStore(t *testing.T) Store {
	t.Helper()
	return Store{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)}
}

func TestIDsAreThoseOfSoundRecords(t *testing.T) {
	s := newStore(t)
	missing := s
	missing.Dir = filepath.Join(s.Dir, "missing")
	if ids := missing.IDs(t.Context()); len(ids) != 0 {
		t.Errorf("ids of a missing directory: %q, want none", ids)
	}
	for name, content := range map[string]string{
		"staged-a.json": `{"volume":"a"}`, "staged-b%2Fc.json": `{"volume":"b/c"}`,
		"formatting-d": `{"volume":"d"}`, "staged-e": `{"volume":"e"}`, "staged-f.json": `{"volu`, "staged-g.json": `{}`,
	} {
		if err := os.WriteFile(filepath.Join(s.Dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if ids, want := s.IDs(t.Context()), []string{"a", "b/c"}; !slices.Equal(ids, want) {
		t.Errorf("ids %q, want %q", ids, want)
	}
}

func TestRecordInTheFileOfAnotherVolumeIsIgnored(t *testing.T) {
	s := newStore(t)
	if err := s.Write(Record{ID: "vol-2", Staging: "/x"}); err != nil {
		t.Fatal(err)
	}
	if err := statefile.Write(s.recordPath("vol-1"), Record{ID: "vol-2", Staging: "/x"}); err != nil {
		t.Fatal(err)
	}
	if r, err := s.Read("vol-1"); err != nil || r.ID != "" {
		t.Errorf("record %+v, error %v; want neither", r, err)
	}
	if all, err := s.List(t.Context()); err != nil || len(all) != 1 {
		t.Errorf("records %+v, error %v; want one record", all, err)
	}
}

// The records of older versions must stay readable.
func TestRecordKeepsItsForm(t *testing.T) {
	s := newStore(t)
	r := Record{
		ID: "v", Staging: "/s", Block: true, ReadOnly: true, Encrypted: true,
		Size: 1, PublishedSize: 2, Granularity: 3, MaxOverhead: 4, Major: 5, Minor: 6,
	}
	if err := s.Write(r); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(s.recordPath(r.ID))
	const want = `{"volume":"v","stagingPath":"/s","block":true,"readOnly":true,"encrypted":true,` +
		`"sizeBytes":1,"attachedBytes":2,"granuleBytes":3,"hiddenBytes":4,"major":5,"minor":6}`
	if got := strings.TrimSpace(string(data)); err != nil || got != want {
		t.Errorf("content %s, error %v; want %s", got, err, want)
	}
	if got, err := s.Read(r.ID); err != nil || got != r {
		t.Errorf("read %+v, error %v; want %+v", got, err, r)
	}
}
