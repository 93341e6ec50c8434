package rbd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/tests/must"
)

// The documentation, the rig and the message of a refused call name the same capabilities.
func TestCapabilitiesAreTheSameEverywhere(t *testing.T) {
	monitor, _, _ := strings.Cut(userCaps, " osd ")
	monitor = strings.Trim(strings.TrimPrefix(monitor, "mon "), "'")
	for file, want := range map[string]string{
		"docs/how-to/install-on-ceph.md": "ceph auth get-or-create client.growvol " +
			strings.ReplaceAll(userCaps, "POOL", "volumes") + "\n",
		"docs/how-to/lost-node-ceph.md": "`mon '" + monitor + "'`",
		"tests/ceph/rig/cluster.py":     "MONITOR_CAPS = '" + monitor + "'",
	} {
		if text := string(must.Value(os.ReadFile(filepath.Join("..", "..", file)))(t)); !strings.Contains(text, want) {
			t.Errorf("%s does not contain: %s", file, want)
		}
	}
	for _, errno := range []unix.Errno{unix.EPERM, unix.EACCES} {
		if got := meanings("x")[errno].remedy; !strings.HasSuffix(got, "ceph auth caps client.x "+userCaps) {
			t.Errorf("%s: got the next step %q, want the command", errno, got)
		}
	}
}
