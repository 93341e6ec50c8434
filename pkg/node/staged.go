package node

import (
	"os"
	"path/filepath"

	"github.com/growvol/growvol/pkg/statefile"
)

// StagedVolumes returns the ids of the volumes that the state directory has records
// of: they are staged on this node, or their staging has begun. It returns none when
// the directory cannot be read.
func StagedVolumes(stateDir string) []string {
	entries, err := os.ReadDir(stateDir)
	if err != nil {
		return nil
	}
	var ids []string
	for _, e := range entries {
		var r record
		if !isRecordName(e.Name()) {
			continue
		}
		if exists, err := statefile.Read(filepath.Join(stateDir, e.Name()), &r); err == nil && exists && r.ID != "" {
			ids = append(ids, r.ID)
		}
	}
	return ids
}
