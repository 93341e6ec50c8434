package vm

import (
	"fmt"
	"maps"
	"testing"

	"github.com/growvol/growvol/tests/internal/console"
)

func TestDefectPatternMatchesDefectsOnly(t *testing.T) {
	for line, want := range map[string]bool{
		"[    1.650000] Kernel panic - not syncing: sysrq triggered crash": true,
		"[   12.100000] kernel BUG at fs/ext4/resize.c:1520!":              true,
		"GROWVOL-GUEST-FAILED no module":                                   true,
		"[    2.000000] EXT4-fs error (device loop0): bad block":           false,
		ReadyLine + " kernel=6.1":                                          false,
	} {
		c := console.New(nil, defectPattern)
		_, _ = fmt.Fprintln(c, line)
		if got := c.Defect() != ""; got != want {
			t.Errorf("%q: got defect %t, want %t", line, got, want)
		}
	}
}

// The format is that of QEMU 7.2.
func TestParseForwardedPorts(t *testing.T) {
	table := "Hub -1 (net):\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\n" +
		"  TCP[HOST_FORWARD]  14       127.0.0.1 40311       10.0.2.15  9001     0     0\n" +
		"  TCP[HOST_FORWARD]  13       127.0.0.1 38121       10.0.2.15  9000     0     0\n"
	want := map[int]string{AgentPort: "127.0.0.1:38121", NodePort: "127.0.0.1:40311"}
	if got := ParseForwardedPorts(table); !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
