package csiclient

import (
	"os"
	"path/filepath"
	"strings"
)

// mountsBelow returns the lines of the mount table whose mount point is below
// dir.
func mountsBelow(dir string) ([]string, error) {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var below []string
	for line := range strings.Lines(string(table)) {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], dir+string(filepath.Separator)) {
			below = append(below, strings.TrimSpace(line))
		}
	}
	return below, nil
}
