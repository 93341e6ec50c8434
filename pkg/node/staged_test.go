package node

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestStagedVolumes(t *testing.T) {
	dir := t.TempDir()
	if ids := StagedVolumes(filepath.Join(dir, "missing")); len(ids) != 0 {
		t.Errorf("a missing directory has %q", ids)
	}
	for _, name := range []string{"staged-a.json", "staged-b%2Fc.json", "formatting-d", "staged-e", "staged-%zz.json"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if ids := StagedVolumes(dir); !slices.Equal(ids, []string{"a", "b/c"}) {
		t.Errorf("%q", ids)
	}
}
