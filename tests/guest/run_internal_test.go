package guest

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/growvol/growvol/tests/internal/console"
)

func TestDefectPatternMatchesDefectsOnly(t *testing.T) {
	for line, want := range map[string]bool{
		"[    1.650000] Kernel panic - not syncing: sysrq triggered crash":         true,
		"[   12.100000] kernel BUG at fs/ext4/resize.c:1520!":                      true,
		"[   12.100000] BUG: unable to handle page fault":                          true,
		"WARNING: CPU: 0 PID: 1 at fs/xfs/xfs_aops.c:1":                            true,
		"[  243.000000] INFO: task umount:77 blocked for more than 120 seconds.":   true,
		"[    2.000000] EXT4-fs warning (device loop0): ext4_resize_fs: a warning": false,
		"[    2.000000] EXT4-fs error (device loop0): bad block":                   false,
		"[    0.000000] Kernel command line: root=/dev/root":                       false,
	} {
		c := console.New(nil, defectPattern)
		_, _ = fmt.Fprintln(c, line)
		if got := c.Defect() != ""; got != want {
			t.Errorf("%q: got defect %t, want %t", line, got, want)
		}
	}
}

func TestMissingKernelIsReported(t *testing.T) {
	dir := t.TempDir()
	_, err := prepare(t.Context(), filepath.Join(dir, "linux.uml"), dir, Command{Path: "true"}, Options{})
	if !errors.Is(err, ErrNotInstalled) || !strings.Contains(err.Error(), "setup.sh") {
		t.Errorf("error %v, want ErrNotInstalled with setup.sh as the next step", err)
	}
}
