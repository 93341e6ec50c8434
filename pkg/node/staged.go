package node

import (
	"net/url"
	"os"
	"strings"
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
		name, isRecord := strings.CutPrefix(e.Name(), recordPrefix)
		name, isJSON := strings.CutSuffix(name, ".json")
		if id, err := url.PathUnescape(name); isRecord && isJSON && err == nil {
			ids = append(ids, id)
		}
	}
	return ids
}
