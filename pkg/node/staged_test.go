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
	for name, content := range map[string]string{
		"staged-a.json": `{"volume":"a"}`, "staged-b%2Fc.json": `{"volume":"b/c"}`,
		"formatting-d": `{"volume":"d"}`, "staged-e": `{"volume":"e"}`, "staged-f.json": `{"volu`, "staged-g.json": `{}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if ids := StagedVolumes(dir); !slices.Equal(ids, []string{"a", "b/c"}) {
		t.Errorf("%q", ids)
	}
}
