package guest

import (
	"fmt"
	"strings"
	"testing"
)

func TestConsoleNoticesDefectsOnly(t *testing.T) {
	for line, want := range map[string]int{
		"[    1.650000] Kernel panic - not syncing: sysrq triggered crash":         1,
		"[   12.100000] kernel BUG at fs/ext4/resize.c:1520!":                      1,
		"[   12.100000] BUG: unable to handle page fault":                          1,
		"WARNING: CPU: 0 PID: 1 at fs/xfs/xfs_aops.c:1":                            1,
		"[  243.000000] INFO: task umount:77 blocked for more than 120 seconds.":   1,
		"[    2.000000] EXT4-fs warning (device loop0): ext4_resize_fs: a warning": 0,
		"[    2.000000] EXT4-fs error (device loop0): bad block":                   0,
		"[    0.000000] Kernel command line: root=/dev/root":                       0,
	} {
		c := newConsole(nil)
		// In pieces, as it comes through a pipe.
		for _, part := range []string{line[:10], line[10:] + "\r", "\nnext"} {
			_, _ = fmt.Fprint(c, part)
		}
		if got := len(c.defects()); got != want {
			t.Errorf("%d defects in %q, want %d", got, line, want)
		}
		if want := line + "\nnext"; c.tail() != want {
			t.Errorf("tail %q, want %q", c.tail(), want)
		}
	}
}

func TestConsoleKeepsTheEnd(t *testing.T) {
	c := newConsole(nil)
	for i := range 10 * consoleLines {
		_, _ = fmt.Fprintln(c, i)
	}
	lines := strings.Split(c.tail(), "\n")
	if first := fmt.Sprint(9 * consoleLines); lines[0] != first || len(lines) != consoleLines+1 {
		t.Errorf("%d lines from %s on, want %d from %s on", len(lines), lines[0], consoleLines+1, first)
	}
}

func TestStorageErrors(t *testing.T) {
	log := "[ 1.0] EXT4-fs (loop0): mounted filesystem with ordered data mode.\n" +
		"[ 2.0] EXT4-fs error (device loop0): ext4_lookup:1: inode #2: comm ls: bad\n" +
		"[ 3.0] operation not supported error, dev loop0, sector 1 op 0x9:(WRITE_ZEROES)\n" +
		"[ 4.0] XFS (loop1): Corruption of in-memory data detected. Shutting down filesystem\n" +
		"[ 5.0] I/O error, dev loop2, sector 8 op 0x1:(WRITE)\n" +
		"[ 6.0] EXT4-fs (loop0): Remounting filesystem read-only\n"
	found := StorageErrors(log)
	if len(found) != 4 {
		t.Errorf("found %d lines, want 4: %q", len(found), found)
	}
}
